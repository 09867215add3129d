"""Some layers of a chain, read as one disk."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from hatchway.disk.composing import leaves_of
from hatchway.disk.extents import Run, granule_of
from hatchway.disk.image import Image
from hatchway.disk.pieces import Pieces
from hatchway.disk.words import VALUE_MASK, Kind

_CACHE_BYTES = 16 << 20
# Read and written at a time.
PIECE_BYTES = 1 << 20


class Range(NamedTuple):
    """A stretch of the disk of which the layers say one thing.

    Attributes:
        start: Guest offset, in bytes.
        length: Bytes; of data at most ``PIECE_BYTES``.
        kind: ``"hole"`` where what lies below them is seen.
    """

    start: int
    length: int
    kind: Literal["data", "zero", "hole"]


class Source(NamedTuple):
    """A stretch of the disk that comes from one place.

    Attributes:
        start: Guest offset, in bytes.
        length: Bytes.
        place: Two stretches at one guest offset hold the same bytes if their places are equal;
            None of zeros.
    """

    start: int
    length: int
    place: tuple[int, ...] | None


class Span:
    """Layers of a chain that lie upon each other, read as one disk.

    They must not change meanwhile. What lies below them is no part of it.

    Args:
        images: The layers, the lowest first; at least one.
        below_bytes: How long the disk below them is; 0 if there is none.

    Attributes:
        size: Bytes of the disk.
    """

    def __init__(self, images: Sequence[Image], *, below_bytes: int = 0) -> None:
        self._images = images
        self.size = images[-1].size
        granule = granule_of(images)
        self._leaves = leaves_of(
            images, granule, _CACHE_BYTES * 3 // 4, None, top_fd=-1, may_share=False
        )
        self._pieces = Pieces(images, granule, self._leaves, _CACHE_BYTES // 4)
        # What lies below a layer is not seen past its end.
        self._holes_end = min(image.size for image in images)
        self._below_bytes = below_bytes

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes of the disk, zeros in holes; fewer only at its end.

        Raises:
            ImageError: If a file is damaged or cannot be read.
        """
        found: bytes | None = self._leaves.read_at(offset, size)
        if found is not None:
            return found
        end = min(offset + size, self.size)
        return b"".join(self._pieces.read(run) for run in self._pieces.runs(offset, end))

    def ranges(self) -> Iterator[Range]:
        """What the layers say of the disk, in order, from its beginning to its end.

        Raises:
            ImageError: If a file is damaged.
        """
        last: Range | None = None
        for run in self._runs():
            for part in self._parts(run):
                if last is not None and last.kind == part.kind and _may_join(last, part):
                    last = last._replace(length=last.length + part.length)
                    continue
                if last is not None:
                    yield last
                last = part
        if last is not None:
            yield last

    def sources(self, start: int, end: int) -> Iterator[Source]:
        """Where the bytes of ``[start, end)`` come from, in order; past the disk's end, zeros.

        Raises:
            ImageError: If a file is damaged.
        """
        for run in self._pieces.runs(start, min(end, self.size)):
            yield Source(run.start, run.length, self._place(run))
        at = max(start, self.size)
        if at < end:
            yield Source(at, end - at, None)

    def regions(self) -> Iterator[tuple[int, int]]:
        """Where the layers have tables, in order: all else they say nothing of.

        Raises:
            ImageError: If a file is damaged.
        """
        start = end = 0
        # Lazily: an L1 table may have millions of entries.
        for first, stop in heapq.merge(*map(_tables_of, self._images)):
            if first >= self.size:
                break
            if first > end:
                if end > start:
                    yield start, end
                start = first
            end = max(end, min(stop, self.size))
        if end > start:
            yield start, end

    def close(self) -> None:
        """The files are closed after this."""
        self._leaves.close()

    def __enter__(self) -> Span:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _runs(self) -> Iterator[Run]:
        at = 0
        for start, end in self.regions():
            if start > at:
                yield Run(at, start - at, Kind.HOLE, 0, 0, 0)
            yield from self._pieces.runs(start, end)
            at = end
        if at < self.size:
            yield Run(at, self.size - at, Kind.HOLE, 0, 0, 0)

    def _parts(self, run: Run) -> Iterator[Range]:
        start, end = run.start, run.start + run.length
        if run.kind is Kind.ZERO:
            yield Range(start, end - start, "zero")
        elif run.kind is Kind.HOLE:
            # Past the end of one of them the disk below is hidden, as far as it goes.
            cuts = [self._holes_end, max(self._below_bytes, self._holes_end)]
            for stop in (*(min(max(cut, start), end) for cut in cuts), end):
                is_hidden = self._holes_end <= start < self._below_bytes
                if stop > start:
                    yield Range(start, stop - start, "zero" if is_hidden else "hole")
                start = stop
        while run.kind in (Kind.DATA, Kind.COMPRESSED) and start < end:
            stop = min(end, (start // PIECE_BYTES + 1) * PIECE_BYTES)
            yield Range(start, stop - start, "data")
            start = stop

    def _place(self, run: Run) -> tuple[int, ...] | None:
        if run.kind in (Kind.HOLE, Kind.ZERO):
            return None
        image = self._images[run.layer]
        if run.kind is Kind.DATA:
            device, inode = image.data.identity[:2]
            return device, inode, run.value - run.start
        device, inode = image.file.identity[:2]
        return device, inode, 0, run.word & VALUE_MASK


def _tables_of(image: Image) -> Iterator[tuple[int, int]]:
    """The stretches of the disk that the L2 tables of a layer are of; all of a raw one."""
    header = image.header
    if header is None:
        yield 0, image.size
        return
    covered = header.cluster_size**2 // header.l2_entry_bytes
    for number in image.l2_tables():
        yield number * covered, (number + 1) * covered


def _may_join(last: Range, part: Range) -> bool:
    """Whether both are of one piece."""
    return part.kind != "data" or part.start % PIECE_BYTES != 0
