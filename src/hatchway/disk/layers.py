"""Opening an image and all that lies below it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from hatchway.disk.errors import BackingFileError, CorruptImageError
from hatchway.disk.files import Descriptors, ImageFile
from hatchway.disk.image import Image
from hatchway.disk.locks import lock_to_read
from hatchway.disk.naming import Allowed, path_of

# A layer's number takes 16 bits of an index.
MAX_LAYERS = 65535


def open_layers(
    top: Path,
    descriptors: Descriptors,
    *,
    image_format: str | None,
    allow_backing: bool | Sequence[str | os.PathLike[str]],
    locks: bool,
) -> list[Image]:
    """The images of a chain, the base first.

    Args:
        top: The active image.
        descriptors: Bounds how many files are open.
        image_format: Of the active image; None to look.
        allow_backing: As in :class:`~hatchway.disk.Chain`.
        locks: Whether the files are locked, as QEMU locks what it reads.

    Raises:
        ImageError: If one cannot be opened, or must not be.
    """
    allowed = Allowed(top, allow_backing)
    with contextlib.ExitStack() as opened:
        layers: list[Image] = []
        seen: dict[tuple[int, int], Path] = {}
        path: Path | None = top
        while path is not None:
            image = Image(path, descriptors, image_format)
            opened.callback(image.close)
            layers.append(image)
            _note(image, layers[-2] if len(layers) > 1 else None, seen)
            if locks and image.file.fd >= 0:
                lock_to_read(image.file.fd, path)
            _open_data_file(image, descriptors, allowed, locks=locks)
            path, image_format = _backing_of(image, allowed)
            if len(layers) == MAX_LAYERS and path is not None:
                raise BackingFileError(
                    f"{top} has more than {MAX_LAYERS} files in its chain", path=top
                )
        opened.pop_all()
    layers.reverse()
    return layers


def _note(image: Image, above: Image | None, seen: dict[tuple[int, int], Path]) -> None:
    identity = image.file.identity[:2]
    if identity in seen and above is not None:
        raise BackingFileError(
            f"{above.path} names {image.path} as its backing file, which is a loop: it lies above "
            f"it in the chain as {seen[identity]}; `qemu-img rebase -u` gives it another",
            path=above.path,
        )
    seen[identity] = image.path


def _backing_of(image: Image, allowed: Allowed) -> tuple[Path | None, str | None]:
    header = image.header
    if header is None or header.backing_name is None:
        return None, None
    role = "backing file"
    path = path_of(header.backing_name, image.path, role)
    allowed.check(path, image.path, role)
    return path, header.backing_format


def _open_data_file(
    image: Image, descriptors: Descriptors, allowed: Allowed, *, locks: bool
) -> None:
    if image.header is None or not image.header.has_data_file:
        return
    name, role = image.header.data_file_name, "external data file"
    if name is None:
        raise CorruptImageError(
            f"{image.path} keeps its clusters in an external data file, and does not say in which",
            path=image.path,
        )
    path = path_of(name, image.path, role)
    allowed.check(path, image.path, role)
    image.data = ImageFile(path, descriptors)
    if locks and image.data.fd >= 0:
        lock_to_read(image.data.fd, path)
