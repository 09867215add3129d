"""The kernel's ``PAGEMAP_SCAN``: which pages were written, got and protected anew in one call.

The interface: ``linux/fs.h`` and ``Documentation/admin-guide/mm/pagemap.rst`` of Linux.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Any, NamedTuple

import numpy as np

from hatchway.base.native import load_kernels
from hatchway.memory.errors import BackendUnavailableError
from hatchway.memory.mappings import first_unmapped
from hatchway.memory.ranges import Ranges, empty, union

ABI_VERSION = 1
KERNELS: Any = load_kernels("memory", ABI_VERSION)
PAGE_IS_WRITTEN = 1 << 1

_SCAN = 0xC0606610
# size, flags, start, end, walk_end, vec, vec_len, max_pages, and four masks of categories.
_ARGUMENT = struct.Struct("12Q")
_WALK_END = struct.Struct("Q")
_WALK_END_AT = 32
_PROTECT_MATCHING = 1
_FAIL_UNLESS_ASYNC = 2
_NUM_REGIONS = 16384


class Scan(NamedTuple):
    """What a scan came to.

    Attributes:
        found: The pages that were written.
        num_done: How many of the ranges it was asked for were scanned.
        error: Why the next one was not, as an ``errno``: ``ENOMEM`` if some of it is not mapped,
            before any range is scanned; ``EPERM`` if some of it is not registered; 0 if all were.
    """

    found: Ranges
    num_done: int
    error: int


class Pagemap:
    """The page tables of this process; not for several threads at once.

    Raises:
        BackendUnavailableError: If the kernel does not tell of them so.
    """

    def __init__(self) -> None:
        try:
            self._fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise BackendUnavailableError(
                f"/proc/self/pagemap cannot be read: {error.strerror}", backend="pagemap_scan"
            ) from error
        # What the kernel fills: start, end and categories of each range.
        self._regions = np.empty((_NUM_REGIONS if KERNELS is None else 1, 3), np.int64)
        try:
            self._scan(0, 0)
        except OSError as error:
            self.close()
            raise BackendUnavailableError(
                f"this kernel has no PAGEMAP_SCAN (Linux 6.7 and later have): {error.strerror}",
                backend="pagemap_scan",
            ) from error
        self._scanner = None if KERNELS is None else KERNELS.PagemapScanner(self._fd)

    def take_written(self, pages: Ranges) -> Scan:
        """The pages that were written, which are protected from then on, each in one step.

        Pages that were given back count as written. Of a range that fails, what was written and
        protected before it failed is not told.
        """
        if self._scanner is not None:
            rows, num_done, error = self._scanner.take_written(pages)
            return Scan(np.frombuffer(rows, np.int64).reshape(-1, 2), num_done, error)
        parts: list[Ranges] = [empty()]
        unmapped = first_unmapped(pages)
        if unmapped is not None:
            return Scan(empty(), unmapped, errno.ENOMEM)
        for rank, (start, end) in enumerate(pages.tolist()):
            try:
                parts += self._written(start, end)
            except OSError as error:
                return Scan(union(*parts), rank, error.errno or errno.EIO)
        return Scan(union(*parts), len(pages), 0)

    def _written(self, start: int, end: int) -> list[Ranges]:
        parts = []
        while start < end:
            count, reached = self._scan(start, end)
            parts.append(self._regions[:count, :2].copy())
            # Past 512 regions it may say that it ended earlier than it did.
            reached = max(reached, int(self._regions[count - 1, 1]) if count else 0)
            if reached <= start:
                raise OSError(errno.EAGAIN, "PAGEMAP_SCAN does not go on")
            start = reached
        return parts

    def _scan(self, start: int, end: int) -> tuple[int, int]:
        argument = bytearray(
            _ARGUMENT.pack(
                _ARGUMENT.size,
                _PROTECT_MATCHING | _FAIL_UNLESS_ASYNC,
                start,
                end,
                0,
                self._regions.__array_interface__["data"][0],
                len(self._regions),
                0,
                0,
                PAGE_IS_WRITTEN,
                0,
                PAGE_IS_WRITTEN,
            )
        )
        count: int = fcntl.ioctl(self._fd, _SCAN, argument)
        return count, _WALK_END.unpack_from(argument, _WALK_END_AT)[0]

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)
