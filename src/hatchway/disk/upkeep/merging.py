"""Making one file of several layers that lie upon each other."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hatchway.disk.active import ActiveLayer, create, open_to_write
from hatchway.disk.active.creation import sync_directory
from hatchway.disk.errors import ImageError, ImageWriteError, UnsupportedImageError
from hatchway.disk.files import Descriptors
from hatchway.disk.header import Header
from hatchway.disk.image import Image
from hatchway.disk.index import sidecar_of
from hatchway.disk.naming import name_of
from hatchway.disk.upkeep.opening import (
    Allowing,
    Opened,
    Progress,
    layer_over,
    nobody,
    refuse_snapshots,
)
from hatchway.disk.upkeep.span import Range, Span


class Merged(NamedTuple):
    """What :func:`merge` did.

    Attributes:
        path: The file that holds now what all of them held.
        num_layers: How many they were.
        written_bytes: Of the disk, what was copied.
        file_bytes: How long the file is.
        unused: The files that the chain does not need any more, external data files included.
        removed: Those of them that were removed.
    """

    path: Path
    num_layers: int
    written_bytes: int
    file_bytes: int
    unused: list[Path]
    removed: list[Path]


def merge(
    path: str | os.PathLike[str],
    first: int | str | os.PathLike[str],
    last: int | str | os.PathLike[str],
    *,
    with_active: bool = False,
    remove: bool = False,
    allow_backing: Allowing = False,
    progress: Progress = nobody,
) -> Merged:
    """Have one file, in place of ``last``, hold what the layers ``first`` to ``last`` hold.

    It is written beside ``last`` under another name, synced, and renamed: at any moment there is
    one of the two, and the disk is the same. Who has the chain open reads on in the old files,
    the guest of a virtual machine included. The others of these layers are needed no more by
    this chain. What is below the first one stays below.

    Args:
        path: The active image; of layers above ``last`` only their headers are looked at.
        first: The lowest of the layers, by its file or its number, the base being 0.
        last: The highest of them, likewise.
        with_active: Whether ``last`` may be the active image, which nobody may write to then.
        remove: Whether the files that this chain needs no more are removed, with their stored
            indexes; for you know that no other chain has them.
        allow_backing: As in :class:`~hatchway.disk.Chain`.
        progress: Called now and then with how many bytes of the disk are done, and of how many.

    Raises:
        ValueError: If these are no layers of the chain, one above the other, or ``last`` is the
            active image and must not be.
        LockedImageError: If another program writes to one of them or one below.
        UnsupportedImageError: If something would be lost: internal snapshots, bitmaps, or that
            ``last`` keeps its clusters in an external data file.
        ImageError: If a file is damaged, or cannot be read or written.
    """
    top = Path(path).absolute()
    with Opened(top, allow_backing=allow_backing) as opened:
        images = opened.images
        low, high = opened.number_of(first), opened.number_of(last)
        if low >= high:
            raise ValueError(
                f"first must be a layer below last; they are layers {low} and {high} of {top}"
            )
        highest = images[high]
        is_active = high == len(images) - 1
        if is_active and not with_active:
            raise ValueError(
                f"last is the active image, {top}, which is not merged unless that is meant: pass "
                "with_active=True (--with-active)"
            )
        header = _checked(images[low : high + 1])
        if is_active:
            opened.lock_to_write(highest)
        opened.hold(images[: high if is_active else high + 1])
        name = name_of(images[low - 1].path, highest.path) if low else None
        below = opened.span(images[:low]) if low else None
        source = opened.span(images[low : high + 1], below_bytes=below.size if below else 0)
        whole = opened.span(images[: high + 1]) if below else source
        target = Path(os.path.realpath(highest.path))
        with _new_file(target) as temporary:
            create(
                temporary,
                source.size,
                backing=name,
                backing_format=images[low - 1].format if low else None,
                cluster_size=header.cluster_size,
                extended_l2=header.has_subclusters,
                compression="zstd" if header.compression == "zstd" else "zlib",
                refcount_bits=1 << header.refcount_order,
            )
            with _written(temporary, below) as layer:
                written = _copy(layer, source, whole, progress)
            _replace(temporary, target, highest)
        unused = [
            one for image in images[low:high] for one in sorted({image.path, image.data.path})
        ]
        removed = [one for one in unused if remove and _is_removed(one)]
        file_bytes = target.stat().st_size
        return Merged(highest.path, high - low + 1, written, file_bytes, unused, removed)


def _checked(images: list[Image]) -> Header:
    """Raise if something would be lost with the files; the header of the highest one."""
    for image in images:
        refuse_snapshots(image, "would be lost")
        if image.header is not None and image.header.bitmaps is not None:
            raise UnsupportedImageError(
                f"{image.path} has bitmaps, which would be lost; if they are not needed, remove "
                f"them: qemu-img bitmap --remove {image.path} NAME",
                path=image.path,
            )
    header = images[-1].header
    assert header is not None  # what has a backing file is no raw file
    if header.has_data_file:
        raise UnsupportedImageError(
            f"{images[-1].path} keeps its clusters in an external data file, which would be lost; "
            "make it an image without one: qemu-img convert",
            path=images[-1].path,
        )
    return header


@contextlib.contextmanager
def _new_file(target: Path) -> Iterator[Path]:
    """A spare name beside a file; what has it at the end is removed."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _written(path: Path, below: Span | None) -> Iterator[ActiveLayer]:
    """A new file as a layer."""
    descriptors = Descriptors()
    file = open_to_write(path, lock=False)
    try:
        image = Image(path, descriptors)
        try:
            with layer_over(below, image, file) as layer:
                yield layer
        finally:
            image.close()
    finally:
        file.close()
        descriptors.close()


def _copy(layer: ActiveLayer, source: Span, whole: Span, progress: Progress) -> int:
    """Write what some layers say into a new one; how many bytes of data."""
    written = 0
    for piece in _aligned(source, layer.granule_bytes):
        if piece.kind == "data":
            layer.write(piece.start, whole.read_at(piece.start, piece.length))
            written += piece.length
        elif piece.kind == "zero":
            layer.write_zeroes(piece.start, piece.length)
        progress(piece.start + piece.length, source.size)
    return written


def _aligned(source: Span, granule: int) -> Iterator[Range]:
    """What the layers say, in whole granules: one of which they say different things is data."""
    at = 0
    for start, length, kind in source.ranges():
        end = start + length
        if end <= at:
            continue
        stop = end if end == source.size else end - end % granule
        if stop > at:
            yield Range(at, stop - at, kind)
            at = stop
        if at < end:
            stop = min(at + granule, source.size)
            yield Range(at, stop - at, "data")
            at = stop


def _replace(temporary: Path, target: Path, highest: Image) -> None:
    """Have the new file be in place of the old one."""
    try:
        found = target.stat()
        if (found.st_dev, found.st_ino) != highest.file.identity[:2]:
            raise ImageError(
                f"{target} was replaced by another program meanwhile, and is left as it is",
                path=target,
            )
        os.chmod(temporary, found.st_mode & 0o7777)
        with contextlib.suppress(PermissionError):
            os.chown(temporary, found.st_uid, found.st_gid)
        os.replace(temporary, target)
        sync_directory(target.parent)
    except OSError as error:
        raise ImageWriteError(
            f"{target} cannot be replaced: {error.strerror}", path=target, errno=error.errno
        ) from error


def _is_removed(path: Path) -> bool:
    """Remove a file and its stored index; False if it is none, as a block device."""
    if not path.is_file():
        return False
    try:
        path.unlink()
        sidecar_of(path).unlink(missing_ok=True)
    except OSError as error:
        raise ImageError(f"{path} cannot be removed: {error.strerror}", path=path) from error
    return True
