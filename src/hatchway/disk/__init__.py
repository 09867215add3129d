"""Chains of qcow2 images, of any length, that read like one file."""

from hatchway.disk.chain import Chain, Extent
from hatchway.disk.errors import (
    BackingFileError,
    CorruptImageError,
    ImageError,
    LockedImageError,
    UnsupportedImageError,
)
from hatchway.disk.image import Image, Snapshot

__all__ = [
    "BackingFileError",
    "Chain",
    "CorruptImageError",
    "Extent",
    "Image",
    "ImageError",
    "LockedImageError",
    "Snapshot",
    "UnsupportedImageError",
]
