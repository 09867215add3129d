"""Which pages of this process were written, from one collection to the next."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, SupportsIndex, overload

from hatchway.memory import ranges
from hatchway.memory.backends import Backend, backend_of
from hatchway.memory.errors import TrackerClosedError
from hatchway.memory.ranges import Ranges
from hatchway.memory.regions import PAGE_BYTES, pages_of, regions_of
from hatchway.memory.whole import WholeBlocks


class PageRange(NamedTuple):
    """Pages in a row.

    Attributes:
        start: The address of the first byte.
        end: The address after the last.
    """

    start: int
    end: int


class DirtyPages(Sequence[PageRange]):
    """What a collection found: whole pages, sorted, as few ranges as say it.

    Attributes:
        addresses: The same as an array of shape ``(num_ranges, 2)``, int64.
    """

    def __init__(self, addresses: Ranges) -> None:
        self.addresses = addresses
        self._num_bytes = ranges.num_bytes(addresses)

    @property
    def num_bytes(self) -> int:
        """Bytes of all of them."""
        return self._num_bytes

    @property
    def num_pages(self) -> int:
        """How many pages there are."""
        return self.num_bytes // PAGE_BYTES

    def __len__(self) -> int:
        return len(self.addresses)

    @overload
    def __getitem__(self, rank: SupportsIndex) -> PageRange: ...

    @overload
    def __getitem__(self, rank: slice) -> DirtyPages: ...

    def __getitem__(self, rank: SupportsIndex | slice) -> PageRange | DirtyPages:
        """One range, or some."""
        if isinstance(rank, slice):
            return DirtyPages(self.addresses[rank])
        return PageRange(*self.addresses[rank].tolist())

    def __iter__(self) -> Iterator[PageRange]:
        return (PageRange(*row) for row in self.addresses.tolist())

    def __repr__(self) -> str:
        return f"<DirtyPages: {self.num_pages} pages in {len(self)} ranges>"


class TrackerStatistics(NamedTuple):
    """What a tracker saw.

    Attributes:
        backend: Its name; before the start as it was asked for.
        num_pages: How many it tracks.
        num_collections: How often it was asked.
        num_dirty_pages: What it answered, all in all.
        num_whole_pages: How many of these it did not look at, since most were dirty before.
        num_resting_blocks: Of how many blocks of 2 MiB it takes all pages the next time.
    """

    backend: str
    num_pages: int
    num_collections: int
    num_dirty_pages: int
    num_whole_pages: int
    num_resting_blocks: int


class DirtyTracker:
    """Tells which pages were written since it was last asked.

    A page that is written while ``with`` holds is in the next collection; one that is written
    during a collection is in that or in the one after it: no write is missed, by whatever thread
    (or by the kernel, as in a ``read`` into it), as long as it comes through this process's own
    mapping. Anonymous pages that were given back (``MADV_DONTNEED``) count as written. A page may
    be told that was not written: at the first use of a page, and where most of a block of 2 MiB
    was written before, which is then taken whole (see ``whole_above``).

    Not seen: what is written to shared memory by other processes or through another mapping,
    ``pwrite`` to a file that is mapped, holes punched into either, pages of a private mapping of
    a file that are given back, and devices.

    Several trackers may watch the same memory. One tracker may be asked from several threads.
    In a forked child it tells nothing; make another one there.

    After OoH (arXiv:2202.13483), sections 3 and 4.

    Args:
        regions: A tensor of torch's on the CPU, an array, a buffer that can be written to, or an
            ``(address, length)`` in bytes; or several. Pages count that they lie on in part.
            Objects are kept alive until the end.
        backend: ``"pagemap_scan"`` (Linux 6.7), ``"hash"`` (any; the program must not write
            while it is asked and what it told is read), or ``"auto"``: the first of them that
            this machine has.
        whole_above: The share of the pages of a block of 2 MiB from which it is taken whole for
            some collections, if that many were dirty twice in a row; None never to do so.

    Raises:
        TypeError: If a region is of no such kind.
        ValueError: If a region is empty or elsewhere, or an argument is not one of those.
    """

    def __init__(
        self, regions: Any, *, backend: str = "auto", whole_above: float | None = 0.5
    ) -> None:
        if whole_above is not None and not 0 < whole_above <= 1:
            raise ValueError(f"whole_above is {whole_above}; it may be above 0 and up to 1")
        self.regions = regions_of(regions)
        self._pages = pages_of(self.regions)
        self._wanted = backend
        self._backend: Backend | None = None
        self._blocks = WholeBlocks(self._pages, whole_above)
        self._whole_above = whole_above
        self._lock = threading.Lock()
        self._process = 0
        # What an interrupted collection may have found; all of it, or nothing.
        self._owed = ranges.empty()
        self._seen = TrackerStatistics(
            backend, ranges.num_bytes(self._pages) // PAGE_BYTES, 0, 0, 0, 0
        )

    def __enter__(self) -> DirtyTracker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin: what is written from now on is told.

        Raises:
            BackendUnavailableError: If this machine does not have the backend.
            RegionError: If a region is not mapped, or another library tracks it.
        """
        with self._lock:
            if self._backend is None:
                self._check_owners()
                self._blocks = WholeBlocks(self._pages, self._whole_above)
                self._backend = backend_of(self._wanted, self._pages)
                self._process = os.getpid()
                self._owed = ranges.empty()
                self._seen = self._seen._replace(backend=self._backend.name, num_resting_blocks=0)

    def close(self) -> None:
        """End; the memory is as it was before. May be called again."""
        if self._is_forked():
            return
        with self._lock:
            backend, self._backend = self._backend, None
            if backend is not None:
                backend.close()

    def collect(self) -> DirtyPages:
        """What was written since the last call, or since the beginning; and begin anew.

        Raises:
            RegionError: If a region was unmapped, resized or moved. The next call tells all that
                this one would have told.
            TrackerClosedError: If the tracker is not started, was closed, or is that of the
                process which forked this one.
        """
        if self._is_forked():
            raise TrackerClosedError(
                f"this tracker is that of process {self._process}, which forked this one; "
                "make another one here"
            )
        with self._lock:
            backend = self._backend
            if backend is None:
                raise TrackerClosedError(
                    "this tracker is not started; use it in `with`, or call start()"
                )
            self._check_owners()
            owed, self._owed = self._owed, self._pages
            found = backend.take(self._blocks.looked_at())
            whole = self._blocks.taken_whole()
            self._blocks.note(found)
            if len(owed):
                found = owed
            num_whole = 0
            if len(whole):
                found = ranges.union(found, whole)
                num_whole = ranges.num_bytes(whole) // PAGE_BYTES
            dirty = DirtyPages(found)
            backend_name, num_pages, num_collections, num_dirty, num_whole_before, _ = self._seen
            self._seen = TrackerStatistics(
                backend_name,
                num_pages,
                num_collections + 1,
                num_dirty + dirty.num_pages,
                num_whole_before + num_whole,
                self._blocks.num_resting,
            )
            self._owed = ranges.empty()
            return dirty

    def statistics(self) -> TrackerStatistics:
        """What it saw up to now."""
        return self._seen

    def _is_forked(self) -> bool:
        """Whether this is a child, in which the lock may be held by a thread that is not there."""
        return self._process not in (0, os.getpid())

    def _check_owners(self) -> None:
        for region in self.regions:
            region.check()
