"""What can go wrong with memory: one branch under ``MemoryTrackingError``."""

from __future__ import annotations

from hatchway.base.errors import MemoryTrackingError


class BackendUnavailableError(MemoryTrackingError):
    """This kernel, or this user, cannot do what a backend needs.

    Attributes:
        backend: Its name.
    """

    def __init__(self, message: str, *, backend: str) -> None:
        super().__init__(message)
        self.backend = backend


class RegionError(MemoryTrackingError):
    """Memory that is not there, or not there any more.

    Attributes:
        start: The first address of the region.
        end: The address after its last.
    """

    def __init__(self, message: str, *, start: int, end: int) -> None:
        super().__init__(message)
        self.start, self.end = start, end


class TrackerClosedError(MemoryTrackingError):
    """A tracker that is not started, or ended, or belongs to the process that forked this one."""
