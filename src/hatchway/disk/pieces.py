"""Reading a disk piece by piece, in every case; native/disk/chain.hpp does the common ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from hatchway.disk.compressed import RecentClusters
from hatchway.disk.extents import Extent, Run, extent_of, goes_on, limits_of
from hatchway.disk.image import Image
from hatchway.disk.kernel import KernelLeaves
from hatchway.disk.leaves import LEAF_GRANULES, Leaves
from hatchway.disk.words import KIND_SHIFT, VALUE_MASK, Kind

_NO_LOCK = nullcontext()


class Pieces:
    """The disk of a chain as runs, and their bytes.

    Args:
        images: The chain's, the base first.
        granule: Bytes of a granule.
        leaves: Say where each one lies.
        most_bytes: Bound of the unpacked clusters that are kept.
        lock: Held while a leaf is made: what is written meanwhile must not be missed.

    Attributes:
        limits: For each image, up to where of the disk it is seen, in bytes.
    """

    def __init__(
        self,
        images: Sequence[Image],
        granule: int,
        leaves: Leaves | KernelLeaves,
        most_bytes: int,
        lock: AbstractContextManager[Any] = _NO_LOCK,
    ) -> None:
        self._images = images
        self._granule = granule
        self._bits = granule.bit_length() - 1
        self._leaves = leaves
        self._lock = lock
        self._unpacked = RecentClusters(most_bytes)
        self.limits = limits_of(images)

    def runs(self, start: int, end: int) -> Iterator[Run]:
        """What ``[start, end)`` of the disk is made of, in order."""
        bits, granule_bytes = self._bits, self._granule
        while start < end:
            granule = start >> bits
            with self._lock:
                leaf, limits = self._leaves.load(granule // LEAF_GRANULES), self.limits
            rank = granule % LEAF_GRANULES
            word, layer = leaf.words[rank], leaf.layers[rank]
            kind = Kind(word >> KIND_SHIFT)
            stop = min(end, (granule + 1) << bits)
            step = granule_bytes if kind is Kind.DATA else 0
            following = word + step
            while (
                stop < end
                and (rank := rank + 1) < LEAF_GRANULES
                and leaf.words[rank] == following
                and leaf.layers[rank] == layer
            ):
                following += step
                stop = min(end, stop + granule_bytes)
            limit = limits[layer]
            if kind is not Kind.HOLE and start < limit < stop:
                stop = limit  # the disk of a file between ends here
            elif kind is not Kind.HOLE and start >= limit:
                kind = Kind.ZERO
            value = (word & VALUE_MASK) + (start & (granule_bytes - 1))
            yield Run(start, stop - start, kind, layer, word, value)
            start = stop

    def extents(self, start: int, end: int) -> Iterator[Extent]:
        """Runs that lie behind each other as one, as users are told of them."""
        last: Extent | None = None
        for run in self.runs(start, end):
            extent = extent_of(run, self._images)
            if last is not None and goes_on(last, extent):
                last = last._replace(length=last.length + extent.length)
                continue
            if last is not None:
                yield last
            last = extent
        if last is not None:
            yield last

    def read(self, run: Run) -> bytes:
        """The bytes of a run."""
        if run.kind in (Kind.HOLE, Kind.ZERO):
            return bytes(run.length)
        image = self._images[run.layer]
        if run.kind is Kind.DATA:
            # What lies past the end of the file was never written.
            return image.data.read(run.length, run.value).ljust(run.length, b"\0")
        key = run.layer, run.word
        cluster = self._unpacked.get(key, lambda: image.unpacked(run.word))
        at = run.start % len(cluster)
        if at + run.length > len(cluster):  # several guest clusters share it
            cluster *= -(-(at + run.length) // len(cluster))
        return cluster[at : at + run.length]


def read_ranges(
    read_at: Callable[[int, int], bytes], ranges: Sequence[tuple[int, int]], num_threads: int
) -> list[bytes]:
    """Several reads, as :meth:`hatchway.disk.Chain.read_many` does them."""
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, not {num_threads}")
    order = sorted(range(len(ranges)), key=lambda number: ranges[number])
    found = [b""] * len(ranges)
    if num_threads == 1 or len(ranges) < 2:
        for number in order:
            found[number] = read_at(*ranges[number])
        return found
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(num_threads, len(ranges)), "hatchway-disk") as pool:
        for number, data in zip(
            order, pool.map(lambda number: read_at(*ranges[number]), order), strict=True
        ):
            found[number] = data
    return found
