"""Which host clusters hold tables, so that nothing else is written over them."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hatchway.disk.active.storage import WritableFile
from hatchway.disk.errors import CorruptImageError
from hatchway.disk.words import OFFSET_MASK

_COMPRESSED = np.uint64(1 << 62)
_PIECE_BYTES = 1 << 20
DIRECTORY = "directory of bitmaps"


class KnownTables:
    """The tables of a file, which only a damaged file has anything else at.

    They are those that QEMU looks at before it writes, unless it is told otherwise
    (``overlap-check=cached``): header, L1 tables of the disk and of its internal snapshots, L2
    tables of the disk, refcount table and blocks, snapshot table, directory of the bitmaps.
    A look costs no read. What is kept takes 8 bytes for each L2 table and refcount block.

    Args:
        path: Of the file.
        cluster_size: Of the file, in bytes.
        doubted: Called when an L2 entry is found that says that data is where a table lies.
    """

    def __init__(self, path: Path, cluster_size: int, doubted: Callable[[], None]) -> None:
        self._path = path
        self._cluster_size = cluster_size
        self._doubted = doubted
        self._ranges: dict[str, list[range]] = {"header": [range(1)]}
        # The clusters of all of them, in order.
        self._starts: list[int] = []
        self._stops: list[int] = []
        # Tables of one cluster that are named by the entries of another, in order.
        self._listed: dict[str, array[int]] = {}

    def keep(self, what: str, places: Iterable[tuple[int, int]]) -> None:
        """Know where the tables of a kind lie, and nothing any more of where they lay.

        Args:
            what: Their kind.
            places: Of each its host offset and its bytes.
        """
        self._ranges[what] = [
            range(offset // self._cluster_size, -(-(offset + num_bytes) // self._cluster_size))
            for offset, num_bytes in places
            if num_bytes
        ]
        self._starts, self._stops = [], []
        for one in sorted(chain(*self._ranges.values()), key=lambda one: one.start):
            if self._stops and one.start <= self._stops[-1]:
                self._stops[-1] = max(self._stops[-1], one.stop)
            else:
                self._starts.append(one.start)
                self._stops.append(one.stop)

    def keep_listed(
        self, what: str, file: WritableFile, offset: int, num_bytes: int, mask: int
    ) -> None:
        """Know where the tables lie that the entries of another name, as they are on the disk.

        Raises:
            ImageError: If it cannot be read.
        """
        found = [np.zeros(0, np.uint64)]
        for at in range(offset, offset + num_bytes, _PIECE_BYTES):
            raw = file.pread(min(_PIECE_BYTES, offset + num_bytes - at), at)
            entries = np.frombuffer(raw[: len(raw) // 8 * 8], ">u8").astype(np.uint64)
            offsets = entries & np.uint64(mask)
            found.append(offsets[offsets != 0] // np.uint64(self._cluster_size))
        self._listed[what] = array("Q", np.sort(np.concatenate(found)).tobytes())

    def add(self, what: str, cluster: int) -> None:
        """Know of one more table that is listed."""
        insort(self._listed[what], cluster)

    def remove(self, what: str, cluster: int) -> None:
        """One that is listed lies there no longer."""
        listed = self._listed[what]
        del listed[bisect_left(listed, cluster)]

    def check_clear(self, found: range, said: str, besides: str = "") -> None:
        """Check that clusters that are to be written to hold no table that is known.

        Args:
            found: Them.
            said: What the file says of them, for messages.
            besides: A kind of table that they may hold.

        Raises:
            CorruptImageError: If they hold another.
        """
        at = bisect_left(self._starts, found.stop) - 1
        if at >= 0 and self._stops[at] > found.start:
            for what, kept in self._ranges.items():
                for one in kept:
                    if what != besides and found.start < one.stop and one.start < found.stop:
                        raise self._contradiction(max(found.start, one.start), said, what)
        for what, listed in self._listed.items():
            at = bisect_left(listed, found.start)
            if at < len(listed) and listed[at] < found.stop and what != besides:
                raise self._contradiction(listed[at], said, what)

    def look_at(self, entries: NDArray[np.uint64]) -> None:
        """Tell who listens if L2 entries, of clusters of this file, point to tables."""
        clusters = (entries & np.uint64(OFFSET_MASK)) // np.uint64(self._cluster_size)
        clusters = clusters[(clusters != 0) & (entries & _COMPRESSED == 0)]
        if not len(clusters):
            return
        # Few tables lie between the data of one page.
        first, last = int(clusters.min()), int(clusters.max())
        near = bisect_right(self._stops, first), bisect_right(self._starts, last)
        is_table = any(
            ((clusters >= start) & (clusters < stop)).any()
            for start, stop in zip(
                self._starts[slice(*near)], self._stops[slice(*near)], strict=True
            )
        )
        for listed in self._listed.values():
            between = listed[bisect_left(listed, first) : bisect_right(listed, last)]
            if between:
                found = np.frombuffer(between, np.uint64)
                at = np.searchsorted(found[:-1], clusters)
                is_table = is_table or bool((found[at] == clusters).any())
        if is_table:
            self._doubted()

    def _contradiction(self, cluster: int, said: str, what: str) -> CorruptImageError:
        return CorruptImageError(
            f"{self._path} contradicts itself: {said} in host cluster {cluster}, where its "
            f"{what} lies; run `qemu-img check -r all {self._path}`",
            path=self._path,
            offset=cluster * self._cluster_size,
        )
