"""Giving an image another backing file, or none, without a change of its disk."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from hatchway.disk.active import ActiveLayer, open_to_write
from hatchway.disk.errors import BackingFileError, UnsupportedImageError
from hatchway.disk.files import Descriptors
from hatchway.disk.image import Image
from hatchway.disk.leaves import LEAF_GRANULES
from hatchway.disk.naming import name_of
from hatchway.disk.upkeep.opening import (
    Allowing,
    Opened,
    Progress,
    layer_over,
    nobody,
    refuse_snapshots,
)
from hatchway.disk.upkeep.span import PIECE_BYTES, Source, Span


class Rebased(NamedTuple):
    """What :func:`rebase` did.

    Attributes:
        path: The image.
        backing_name: How it names its backing file now; None without one.
        backing_format: What that is; None without one.
        written_bytes: Of the disk, what was copied into the image.
    """

    path: Path
    backing_name: str | None
    backing_format: str | None
    written_bytes: int


def rebase(
    path: str | os.PathLike[str],
    backing: str | os.PathLike[str] | None,
    *,
    unsafe: bool = False,
    backing_format: Literal["qcow2", "raw"] | None = None,
    allow_backing: Allowing = False,
    progress: Progress = nobody,
) -> Rebased:
    """Give an image another backing file, as ``qemu-img rebase``.

    What the old and the new backing file say differently of clusters that the image does not
    hold is written into it first. Whenever this is cut short, its disk is what it was.

    Args:
        path: The image; no other program may use it to write.
        backing: The new backing file; named in the image relative to its directory, where both
            have one in common. None for none: the image holds all of its disk then.
        unsafe: Whether only the name is changed, for a backing file that was moved: nothing is
            compared, and neither the old nor the new one need be there.
        backing_format: What the new one is; None to look, which a guest's raw disk can lead
            astray.
        allow_backing: As in :class:`~hatchway.disk.Chain`.
        progress: Called now and then with how many bytes of the disk are done, and of how many.

    Raises:
        ValueError: If ``backing_format`` is given without ``backing``, or missing where nothing
            is to be looked at.
        BackingFileError: If the image lies in the chain of the new backing file.
        LockedImageError: If another program uses the image, or writes to what is below.
        UnsupportedImageError: If the image has internal snapshots, or its header has no room for
            the name.
        ImageError: If a file is damaged, or cannot be read or written.
    """
    top = Path(path).absolute()
    new = None if backing is None else Path(backing).absolute()
    if new is None and backing_format is not None:
        raise ValueError(f"backing_format is {backing_format!r}, and there is no backing")
    name = None if new is None else name_of(new, top)
    if unsafe:
        if new is not None and backing_format is None:
            raise ValueError("backing_format must be given where the backing file is not looked at")
        _point(top, name, backing_format)
        return Rebased(top, name, backing_format, 0)
    with Opened(top, allow_backing=allow_backing) as opened:
        image = opened.images[-1]
        if image.header is None:
            raise UnsupportedImageError(f"{top} is raw, and so has no backing file", path=top)
        refuse_snapshots(image, "see the backing file and would change with it")
        layer = opened.write_to_layer(image, hides_below=True)
        opened.hold(opened.images[:-1])
        old = opened.span(opened.images[:-1]) if len(opened.images) > 1 else None
        if new is None:
            num_bytes = _copy_differences(layer, old, None, progress)
        else:
            allowed = allow_backing if isinstance(allow_backing, bool) else [*allow_backing]
            if isinstance(allowed, list):
                allowed.append(top.parent)
            with Opened(new, image_format=backing_format, allow_backing=allowed) as below:
                _refuse_loop(top, image.file.identity[:2], below)
                below.hold(below.images)
                span = below.span(below.images)
                num_bytes = _copy_differences(layer, old, span, progress)
                backing_format = below.images[-1].format
        layer.set_backing(name, backing_format)
    return Rebased(top, name, backing_format, num_bytes)


def _point(top: Path, name: str | None, backing_format: str | None) -> None:
    """Change the name only."""
    file, descriptors = open_to_write(top), Descriptors()
    try:
        image = Image(top, descriptors)
        try:
            with layer_over(None, image, file) as layer:
                layer.set_backing(name, backing_format)
        finally:
            image.close()
    finally:
        file.close()
        descriptors.close()


def _refuse_loop(top: Path, identity: tuple[int, int], below: Opened) -> None:
    for image in below.images:
        if image.file.identity[:2] == identity:
            raise BackingFileError(
                f"{top} lies in the chain of {below.images[-1].path}, and cannot have that as its "
                "backing file",
                path=top,
            )


def _copy_differences(
    layer: ActiveLayer, old: Span | None, new: Span | None, progress: Progress
) -> int:
    """Write what reads differently above another disk; how many bytes."""
    num_bytes = 0
    for start, end in _holes(layer, old, new, progress):
        for begin, stop in _doubtful(old, new, start, end):
            num_bytes += _copy_differing(layer, old, new, begin, stop)
    return num_bytes


def _holes(
    layer: ActiveLayer, old: Span | None, new: Span | None, progress: Progress
) -> Iterator[tuple[int, int]]:
    """The stretches that a layer does not hold, where one of the disks below may hold something.

    They are as the layer is when they are asked for.
    """
    granule = layer.granule_bytes
    step = LEAF_GRANULES * granule
    at = 0
    for begin, stop in heapq.merge(*(span.regions() for span in (old, new) if span)):
        for start in range(max(at, begin - begin % step), min(stop, layer.size), step):
            at, end = start + step, min(start + step, layer.size)
            words = layer.words(start, LEAF_GRANULES, granule)
            if words is None:
                yield start, end
            else:
                edges = np.flatnonzero(np.diff(words == 0, prepend=False, append=False))
                for first, last in edges.reshape(-1, 2) * granule:
                    if start + int(first) < end:
                        yield start + int(first), min(start + int(last), end)
            progress(end, layer.size)
    progress(layer.size, layer.size)


def _doubtful(
    old: Span | None, new: Span | None, start: int, end: int
) -> Iterator[tuple[int, int]]:
    """The parts of ``[start, end)`` whose bytes do not come from one and the same place."""
    olds, news = _sources(old, start, end), _sources(new, start, end)
    one, other = next(olds), next(news)
    first: int | None = None
    while start < end:
        stop = min(one.start + one.length, other.start + other.length)
        if one.place == other.place:
            if first is not None:
                yield first, start
            first = None
        elif first is None:
            first = start
        start = stop
        if start < end:
            one = next(olds) if one.start + one.length == start else one
            other = next(news) if other.start + other.length == start else other
    if first is not None:
        yield first, end


def _sources(span: Span | None, start: int, end: int) -> Iterator[Source]:
    if span is None:
        return iter([Source(start, end - start, None)])
    return span.sources(start, end)


def _copy_differing(
    layer: ActiveLayer, old: Span | None, new: Span | None, start: int, end: int
) -> int:
    num_bytes, granule = 0, layer.granule_bytes
    while start < end:
        stop = min(end, (start // PIECE_BYTES + 1) * PIECE_BYTES)
        was, will_be = (_read(span, start, stop - start) for span in (old, new))
        if was != will_be:
            for first, last in _differing(was, will_be, start % granule, granule):
                data = was[first:last]
                if any(data):
                    layer.write(start + first, data)
                else:
                    layer.write_zeroes(start + first, len(data))
                num_bytes += len(data)
        start = stop
    return num_bytes


def _read(span: Span | None, offset: int, size: int) -> bytes:
    return (b"" if span is None else span.read_at(offset, size)).ljust(size, b"\0")


def _differing(one: bytes, other: bytes, begin: int, granule: int) -> Iterator[tuple[int, int]]:
    """The stretches of two pieces, in whole granules, that differ; ``begin`` is in the first."""
    first: int | None = None
    start = 0
    while start < len(one):
        stop = min(len(one), (begin + start) // granule * granule + granule - begin)
        if one[start:stop] == other[start:stop]:
            if first is not None:
                yield first, start
            first = None
        elif first is None:
            first = start
        start = stop
    if first is not None:
        yield first, len(one)
