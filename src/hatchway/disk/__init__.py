"""Chains of qcow2 images, of any length, that read like one file."""

from typing import TYPE_CHECKING

from hatchway.base.lazy import lazy_names

if TYPE_CHECKING:
    from hatchway.disk.chain import Chain
    from hatchway.disk.checking import Finding, Report, check, check_chain
    from hatchway.disk.errors import (
        BackingFileError,
        CorruptImageError,
        ImageError,
        ImageWriteError,
        LockedImageError,
        RecordsError,
        UnsupportedImageError,
    )
    from hatchway.disk.extents import Extent
    from hatchway.disk.image import Image
    from hatchway.disk.records import RawFile, Records, append_records, write_records
    from hatchway.disk.server import Server
    from hatchway.disk.snapshots import Snapshot
    from hatchway.disk.upkeep import (
        Committed,
        Merged,
        Overlay,
        Rebased,
        commit,
        merge,
        rebase,
        resize,
        snapshot,
    )

__all__ = [
    "BackingFileError",
    "Chain",
    "Committed",
    "CorruptImageError",
    "Extent",
    "Finding",
    "Image",
    "ImageError",
    "ImageWriteError",
    "LockedImageError",
    "Merged",
    "Overlay",
    "RawFile",
    "Rebased",
    "Records",
    "RecordsError",
    "Report",
    "Server",
    "Snapshot",
    "UnsupportedImageError",
    "append_records",
    "check",
    "check_chain",
    "commit",
    "merge",
    "rebase",
    "resize",
    "snapshot",
    "write_records",
]

_NAMES = {
    "hatchway.disk.chain": ("Chain",),
    "hatchway.disk.checking": ("Finding", "Report", "check", "check_chain"),
    "hatchway.disk.errors": (
        "BackingFileError",
        "CorruptImageError",
        "ImageError",
        "ImageWriteError",
        "LockedImageError",
        "RecordsError",
        "UnsupportedImageError",
    ),
    "hatchway.disk.extents": ("Extent",),
    "hatchway.disk.image": ("Image",),
    "hatchway.disk.records": ("RawFile", "Records", "append_records", "write_records"),
    "hatchway.disk.server": ("Server",),
    "hatchway.disk.snapshots": ("Snapshot",),
    "hatchway.disk.upkeep": (
        "Committed",
        "Merged",
        "Overlay",
        "Rebased",
        "commit",
        "merge",
        "rebase",
        "resize",
        "snapshot",
    ),
}

# A server that only reads needs neither NumPy nor the rest of this.
__getattr__ = lazy_names(
    __name__, {name: module for module, names in _NAMES.items() for name in names}
)
