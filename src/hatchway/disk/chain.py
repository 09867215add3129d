"""A chain of images as one disk: one lookup and one read, however many files there are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hatchway.disk.compressed import RecentClusters
from hatchway.disk.entries import KIND_SHIFT, VALUE_MASK, Kind
from hatchway.disk.errors import ImageError
from hatchway.disk.files import Descriptors
from hatchway.disk.image import Image
from hatchway.disk.layers import open_layers
from hatchway.disk.leaves import LEAF_GRANULES, Leaves

_DEFAULT_CACHE_BYTES = 16 << 20
_RAW_GRANULE = 65536
_LEAF_BITS = LEAF_GRANULES.bit_length() - 1
_RANK = LEAF_GRANULES - 1
_DATA = int(Kind.DATA)
_NAMES: dict[Kind, Literal["hole", "data", "zero", "compressed"]] = {
    Kind.HOLE: "hole",
    Kind.DATA: "data",
    Kind.ZERO: "zero",
    Kind.COMPRESSED: "compressed",
}


class Extent(NamedTuple):
    """A stretch of the disk that lies in one piece, or nowhere.

    Attributes:
        start: Guest offset, in bytes.
        length: Bytes.
        kind: ``"data"``; ``"compressed"``; ``"zero"``: a file says that it is zeros;
            ``"hole"``: no file says anything of it, and it reads as zeros.
        layer: The number of the file that says so, the base being 0; None of a hole.
        path: That file, or the external data file beside it; None of a hole.
        host_offset: Where it lies there; None where it does not.
    """

    start: int
    length: int
    kind: Literal["hole", "data", "zero", "compressed"]
    layer: int | None
    path: Path | None
    host_offset: int | None


class _Run(NamedTuple):
    """A stretch within one leaf, of one kind, in one layer, without a gap there."""

    start: int
    length: int
    kind: Kind
    layer: int
    word: int  # of the granule that ``start`` lies in
    value: int  # the host offset of ``start``, of data


class Chain:
    """An image and all that lies below it, read as one disk.

    Every byte is the byte that QEMU reads. Where each granule lies is merged from the tables
    of all files when its region is first read, and kept: a read costs one lookup and one
    ``pread``, whatever the chain's length. Any number of threads may read. The files are
    locked as QEMU locks what it reads: nobody changes them meanwhile. After sQemu
    (arXiv:2205.06842), with files that stock QEMU opens. A forked process reads on; a pickled
    chain is opened anew.

    Args:
        path: The active image.
        image_format: ``"qcow2"`` or ``"raw"``; None to look at its first bytes.
        snapshot: The id or name of an internal snapshot of it, to be read instead.
        allow_backing: Whether backing and data files may lie outside the image's
            directory: True, or the directories that they may lie in as well.
        cache_bytes: Bound of what is kept of the tables and of unpacked clusters, for all
            files together.
        max_descriptors: How many files may be open; None for what the process may have,
            whose soft limit is raised for it. Others are opened when they are read.
        lock: Whether the files are locked.

    Attributes:
        size: Bytes of the disk.
        images: The files of the chain, the base first.
        granule_bytes: The smallest piece that any of them allocates.

    Raises:
        ImageError: If a file cannot be opened, is damaged, or is held by a writer.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        image_format: str | None = None,
        snapshot: str | None = None,
        allow_backing: bool | Sequence[str | os.PathLike[str]] = False,
        cache_bytes: int = _DEFAULT_CACHE_BYTES,
        max_descriptors: int | None = None,
        lock: bool = True,
    ) -> None:
        if cache_bytes < 0:
            raise ValueError(f"cache_bytes must be at least 0, not {cache_bytes}")
        if max_descriptors is not None and max_descriptors < 1:
            raise ValueError(f"max_descriptors must be at least 1, not {max_descriptors}")
        # A change of the working directory does not change which files these are.
        top = Path(path).absolute()
        self._opened_by = (
            top,
            {
                "image_format": image_format,
                "snapshot": snapshot,
                "allow_backing": allow_backing,
                "cache_bytes": cache_bytes,
                "max_descriptors": max_descriptors,
                "lock": lock,
            },
        )
        self._descriptors = Descriptors(max_descriptors)
        self.images: list[Image] = open_layers(
            top,
            self._descriptors,
            image_format=image_format,
            allow_backing=allow_backing,
            locks=lock,
        )
        try:
            if snapshot is not None:
                _show(self.images[-1], snapshot)
        except BaseException:
            self.close()
            raise
        self.size: int = self.images[-1].size
        sizes = [image.granule_bytes for image in self.images]
        self.granule_bytes: int = min((size for size in sizes if size), default=_RAW_GRANULE)
        self._bits = self.granule_bytes.bit_length() - 1
        self._limits = _limits(self.images)
        self._within = self.granule_bytes - 1
        self._fds = [image.data.fd for image in self.images]
        self._leaves = Leaves(self.images, self.granule_bytes, cache_bytes * 3 // 4)
        self._leaf = self._leaves.get
        self._unpacked = RecentClusters(cache_bytes // 4)

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes of the disk; as ``os.pread``, fewer only at its end.

        Args:
            offset: Where they begin.
            size: How many.

        Raises:
            ValueError: If one is negative, or the chain is closed.
            ImageError: If a file is damaged or cannot be read.
        """
        granule = offset >> self._bits
        leaf = self._leaf(granule >> _LEAF_BITS)
        within = offset & self._within
        if leaf is not None and 0 < size <= self.granule_bytes - within:
            rank = granule & _RANK
            word, layer = leaf.words[rank], leaf.layers[rank]
            fd = self._fds[layer]
            # What most reads are: data in one piece, in a file that is open.
            if word >> KIND_SHIFT == _DATA and fd >= 0 and offset + size <= self._limits[layer]:
                try:
                    found = os.pread(fd, size, (word & VALUE_MASK) + within)
                except OSError:
                    found = b""  # the way below says what it is
                if len(found) == size:
                    return found
        size = self._clipped(offset, size)
        pieces = [self._piece(run) for run in self._runs(offset, offset + size)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readinto_at(self, offset: int, buffer: Any) -> int:
        """Read bytes of the disk into a buffer.

        Args:
            offset: Where they begin.
            buffer: Anything that can be written to as bytes: a bytearray, an array.

        Returns:
            How many were read: fewer than it holds only at the disk's end.

        Raises:
            ValueError: As in :meth:`read_at`.
            ImageError: As in :meth:`read_at`.
        """
        view = memoryview(buffer).cast("B")
        size = self._clipped(offset, len(view))
        for run in self._runs(offset, offset + size):
            at = run.start - offset
            view[at : at + run.length] = self._piece(run)
        return size

    def map(self, start: int = 0, end: int | None = None) -> Iterator[Extent]:
        """What lies where: the extents of the disk from ``start`` to ``end``, in order.

        Raises:
            ValueError: If the range is not within the disk.
            ImageError: If a file is damaged.
        """
        end = self.size if end is None else end
        if not 0 <= start <= end <= self.size:
            raise ValueError(f"[{start}, {end}) is not within the disk's {self.size} bytes")
        last: Extent | None = None
        for run in self._runs(start, end):
            extent = self._extent(run)
            if last is not None and _goes_on(last, extent):
                last = last._replace(length=last.length + extent.length)
                continue
            if last is not None:
                yield last
            last = extent
        if last is not None:
            yield last

    @property
    def cached_bytes(self) -> int:
        """What is kept of the tables now."""
        return self._leaves.num_bytes

    def close(self) -> None:
        """Close all files."""
        self._fds = [-1] * len(self.images)
        for image in self.images:
            image.close()
        self._descriptors.close()
        self.size = 0

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, self._opened_by

    def _clipped(self, offset: int, size: int) -> int:
        if offset < 0 or size < 0:
            raise ValueError(f"offset and size must be at least 0, not {offset} and {size}")
        if not self.images or self.images[-1].is_closed:
            raise ValueError("the chain is closed")
        return max(0, min(size, self.size - offset))

    def _runs(self, start: int, end: int) -> Iterator[_Run]:
        bits, granule_bytes, limits = self._bits, self.granule_bytes, self._limits
        while start < end:
            granule = start >> bits
            leaf = self._leaves.load(granule // LEAF_GRANULES)
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
            yield _Run(start, stop - start, kind, layer, word, value)
            start = stop

    def _piece(self, run: _Run) -> bytes:
        if run.kind in (Kind.HOLE, Kind.ZERO):
            return bytes(run.length)
        image = self.images[run.layer]
        if run.kind is Kind.DATA:
            # What lies past the end of the file was never written.
            return image.data.read(run.length, run.value).ljust(run.length, b"\0")
        key = run.layer, run.word
        cluster = self._unpacked.get(key, lambda: image.unpacked(run.word))
        at = run.start % len(cluster)
        if at + run.length > len(cluster):  # several guest clusters share it
            cluster *= -(-(at + run.length) // len(cluster))
        return cluster[at : at + run.length]

    def _extent(self, run: _Run) -> Extent:
        if run.kind is Kind.HOLE:
            return Extent(run.start, run.length, "hole", None, None, None)
        image = self.images[run.layer]
        is_data = run.kind is Kind.DATA
        path = image.data.path if is_data else image.path
        where = run.value if is_data else None
        return Extent(run.start, run.length, _NAMES[run.kind], run.layer, path, where)


def _open(path: Path, arguments: dict[str, Any]) -> Chain:
    return Chain(path, **arguments)


def _goes_on(last: Extent, extent: Extent) -> bool:
    if (last.kind, last.layer) != (extent.kind, extent.layer):
        return False
    return last.host_offset is None or last.host_offset + last.length == extent.host_offset


def _limits(images: Sequence[Image]) -> list[int]:
    """For each image, up to where of the disk it is seen: the smallest size from it upwards."""
    limits, smallest = [], images[-1].size
    for image in reversed(images):
        smallest = min(smallest, image.size)
        limits.append(smallest)
    return limits[::-1]


def _show(image: Image, wanted: str) -> None:
    snapshots = image.snapshots()
    for snapshot in snapshots:
        if wanted in (snapshot.id, snapshot.name):
            image.show(snapshot)
            return
    known = ", ".join(f"{one.id} ({one.name})" for one in snapshots) or "none"
    raise ImageError(
        f"{image.path} has no internal snapshot {wanted!r}; it has {known}", path=image.path
    )
