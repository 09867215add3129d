"""Stretches of a disk, as they are read and as they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from hatchway.disk.image import Image
from hatchway.disk.words import Kind

# Of a chain of a raw file only, which allocates nothing.
_RAW_GRANULE = 65536
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


class Run(NamedTuple):
    """A stretch within one leaf, of one kind, in one layer, without a gap there."""

    start: int
    length: int
    kind: Kind
    layer: int
    word: int  # of the granule that ``start`` lies in
    value: int  # the host offset of ``start``, of data


def extent_of(run: Run, images: Sequence[Image]) -> Extent:
    """A run, as users are told of it."""
    if run.kind is Kind.HOLE:
        return Extent(run.start, run.length, "hole", None, None, None)
    image = images[run.layer]
    is_data = run.kind is Kind.DATA
    path = image.data.path if is_data else image.path
    where = run.value if is_data else None
    return Extent(run.start, run.length, _NAMES[run.kind], run.layer, path, where)


def goes_on(last: Extent, extent: Extent) -> bool:
    """Whether one extent and the next are one."""
    if (last.kind, last.layer) != (extent.kind, extent.layer):
        return False
    return last.host_offset is None or last.host_offset + last.length == extent.host_offset


def granule_of(images: Sequence[Image]) -> int:
    """The smallest piece that any image allocates, in bytes."""
    sizes = [image.granule_bytes for image in images]
    return min((size for size in sizes if size), default=_RAW_GRANULE)


def limits_of(images: Sequence[Image]) -> list[int]:
    """For each image, up to where of the disk it is seen: the smallest size from it upwards."""
    limits, smallest = [], images[-1].size
    for image in reversed(images):
        smallest = min(smallest, image.size)
        limits.append(smallest)
    return limits[::-1]
