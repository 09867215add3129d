"""Writing what the highest layers hold into one below them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from hatchway.disk.active import ActiveLayer
from hatchway.disk.errors import ImageError
from hatchway.disk.upkeep.opening import Allowing, Opened, Progress, nobody, refuse_snapshots


class Committed(NamedTuple):
    """What :func:`commit` did.

    Attributes:
        path: The active image.
        into: The file that was written to.
        size: Bytes of its disk.
        written_bytes: Of the disk, what was written to it.
        zeroed_bytes: Of the disk, what was made zeros in it.
        is_emptied: Whether the active image holds nothing any more.
    """

    path: Path
    into: Path
    size: int
    written_bytes: int
    zeroed_bytes: int
    is_emptied: bool


def commit(
    path: str | os.PathLike[str],
    *,
    into: int | str | os.PathLike[str] | None = None,
    keep: bool = False,
    allow_backing: Allowing = False,
    progress: Progress = nobody,
) -> Committed:
    """Write what the active image holds into its backing file, as ``qemu-img commit``.

    Whenever this is cut short, the disk of the active image is what it was, and this can be
    done again. The disk of the file that is written to grows where it is shorter. Other overlays
    of that file, and layers between, show something else after this: nobody may use them.

    Args:
        path: The active image.
        into: The layer that is written to, by its file or its number, the base being 0; what all
            layers above it hold is written. None for the backing file of the active image.
        keep: Whether the active image keeps what it holds; it does in any case if there are
            layers between, which hide what was written.
        allow_backing: As in :class:`~hatchway.disk.Chain`.
        progress: Called now and then with how many bytes of the disk are done, and of how many.

    Raises:
        ValueError: If there is no such layer below the active image.
        LockedImageError: If another program uses the file that is written to, or writes to one
            above it.
        UnsupportedImageError: If a layer above it has internal snapshots.
        ImageError: If a file is damaged, or cannot be read or written.
    """
    top = Path(path).absolute()
    with Opened(top, allow_backing=allow_backing) as opened:
        images = opened.images
        if len(images) == 1:
            raise ImageError(
                f"{top} has no backing file, so there is nothing to write it into", path=top
            )
        number = len(images) - 2 if into is None else opened.number_of(into)
        if number == len(images) - 1:
            raise ValueError(f"into must be a layer below {top}, not {top} itself")
        is_emptied = not keep and number == len(images) - 2
        for image in images[number + 1 :]:
            refuse_snapshots(image, "see the file below and would change with it")
        opened.hold(images[:number])
        active: ActiveLayer | None = None
        if is_emptied:
            active = opened.write_to_layer(images[-1])
        opened.hold(images[number + 1 : -1 if is_emptied else None])
        target = opened.write_to(images[number])
        source = opened.span(images[number + 1 :], below_bytes=target.size)
        if target.size < source.size:
            target.resize(source.size)
        written = zeroed = 0
        for piece in source.ranges():
            if piece.kind == "data":
                data = source.read_at(piece.start, piece.length)
                target.write(piece.start, data)
                written += piece.length
            elif piece.kind == "zero":
                target.write_zeroes(piece.start, piece.length)
                zeroed += piece.length
            progress(piece.start + piece.length, source.size)
        target.flush()
        # Only now that all is on the disk below.
        if active is not None:
            active.empty()
        return Committed(top, images[number].path, target.size, written, zeroed, is_emptied)
