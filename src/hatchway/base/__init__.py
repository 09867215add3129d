"""The only types that two parts may share: errors, units, protocols. No logic."""

from hatchway.base.errors import (
    CheckpointError,
    DiskError,
    HatchwayError,
    LoaderError,
    MemoryTrackingError,
)

__all__ = ["CheckpointError", "DiskError", "HatchwayError", "LoaderError", "MemoryTrackingError"]
