"""Whether memory is mapped."""

from __future__ import annotations

import ctypes

from hatchway.memory.errors import RegionError
from hatchway.memory.ranges import Ranges

_LIBC = ctypes.CDLL(None, use_errno=True)
_MS_ASYNC = 1


def first_unmapped(pages: Ranges) -> int | None:
    """The rank of the first range that is not mapped as a whole; None if all are."""
    for rank, (start, end) in enumerate(pages.tolist()):
        # It writes nothing, and looks at mappings rather than at pages.
        if _LIBC.msync(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MS_ASYNC):
            return rank
    return None


def check_mapped(pages: Ranges) -> None:
    """Raise if some range is not mapped as a whole.

    Raises:
        RegionError: If so.
    """
    unmapped = first_unmapped(pages)
    if unmapped is not None:
        raise not_mapped(*pages[unmapped].tolist())


def not_mapped(start: int, end: int) -> RegionError:
    """The error of a range that is not."""
    return RegionError(
        f"memory from {start:#x} to {end:#x} cannot be tracked: some of it is not mapped; keep it "
        "mapped, or make a new tracker",
        start=start,
        end=end,
    )
