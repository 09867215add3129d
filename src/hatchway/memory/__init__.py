"""Which pages of a process were written."""

from hatchway.memory.errors import BackendUnavailableError, RegionError, TrackerClosedError
from hatchway.memory.tracker import DirtyPages, DirtyTracker, PageRange, TrackerStatistics

__all__ = [
    "BackendUnavailableError",
    "DirtyPages",
    "DirtyTracker",
    "PageRange",
    "RegionError",
    "TrackerClosedError",
    "TrackerStatistics",
]
