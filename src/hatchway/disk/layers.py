"""Opening an image and all that lies below it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hatchway.disk.errors import BackingFileError, CorruptImageError, ImageError
from hatchway.disk.files import Descriptors, ImageFile
from hatchway.disk.image import Image
from hatchway.disk.locks import lock_to_read
from hatchway.disk.naming import Allowed, path_of

if TYPE_CHECKING:
    from hatchway.disk.index.shortcut import Shortcut

# A layer's number takes 16 bits of an index.
MAX_LAYERS = 65535


def open_layers(
    top: Path,
    descriptors: Descriptors,
    allowed: Allowed,
    *,
    image_format: str | None,
    snapshot: str | None,
    locks: bool,
    is_written: bool = False,
    shortcut: Shortcut | None = None,
) -> list[Image]:
    """The images of a chain, the base first.

    Args:
        top: The active image.
        descriptors: Bounds how many files are open.
        allowed: Which files may be opened.
        image_format: Of the active image; None to look.
        snapshot: The id or name of an internal snapshot of it that is meant; None for none.
        locks: Whether the files are locked, as QEMU locks what it reads.
        is_written: Whether the active image is locked for writing already.
        shortcut: May know all layers from a backing file down; None to open each.

    Raises:
        ImageError: If one cannot be opened, or must not be.
    """
    layers: list[Image] = []
    try:
        seen: dict[tuple[int, int], Image] = {}
        path: Path | None = top
        while path is not None:
            known = shortcut.take(path, image_format) if shortcut and layers else None
            if known is not None:
                above = layers[-1]
                layers += known
                for image in known:
                    _note(image, above, seen)
                    _open_data_file(image, descriptors, allowed, locks=locks)
                    above = image
                break
            image = Image(path, descriptors, image_format)
            layers.append(image)
            _note(image, layers[-2] if len(layers) > 1 else None, seen)
            is_locked = locks and not (is_written and path == top)
            if is_locked and image.file.fd >= 0:
                lock_to_read(image.file.fd, path)
            _open_data_file(image, descriptors, allowed, locks=is_locked)
            path, image_format = backing_of(image, allowed)
            image.forget_header()
            if len(layers) == MAX_LAYERS and path is not None:
                raise BackingFileError(
                    f"{top} has more than {MAX_LAYERS} files in its chain", path=top
                )
        if snapshot is not None:
            _show(layers[0], snapshot)
    except BaseException:
        for image in layers:
            image.close()
        raise
    layers.reverse()
    return layers


def _note(image: Image, above: Image | None, seen: dict[tuple[int, int], Image]) -> None:
    identity = image.file.identity[:2]
    if identity in seen and above is not None:
        raise BackingFileError(
            f"{above.path} names {image.path} as its backing file, which is a loop: it lies above "
            f"it in the chain as {seen[identity].path}; `qemu-img rebase -u` gives it another",
            path=above.path,
        )
    seen[identity] = image


def backing_of(image: Image, allowed: Allowed) -> tuple[Path | None, str | None]:
    """The backing file of an image, and its format: None without one, or where it is not said.

    Raises:
        BackingFileError: If it must not be opened.
        UnsupportedImageError: If it is no file of this host.
    """
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
    if image.layout is None or not image.layout.has_data_file:
        return
    assert image.header is not None
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
