"""Opening and holding the layers that an operation reads and writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from hatchway.disk.active import ActiveLayer, OpenFile, open_to_write
from hatchway.disk.errors import BackingFileError, ImageError, UnsupportedImageError
from hatchway.disk.files import Descriptors, ImageFile
from hatchway.disk.image import Image
from hatchway.disk.index.shortcut import Shortcut
from hatchway.disk.layers import open_layers
from hatchway.disk.locks import lock_to_read
from hatchway.disk.naming import Allowed
from hatchway.disk.upkeep.raw import RawDisk
from hatchway.disk.upkeep.span import Span
from hatchway.disk.writes import LockedFiles

Allowing = bool | Sequence[str | os.PathLike[str]]
_CACHE_BYTES = 16 << 20
# Called now and then with how many bytes of the disk are done, and of how many.
Progress = Callable[[int, int], None]


def nobody(done: int, total: int) -> None:
    """A progress that nobody looks at."""


class WrittenDisk(Protocol):
    """A layer that is written to, qcow2 or raw."""

    @property
    def size(self) -> int:
        """Bytes of the disk."""

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes to the disk."""

    def write_zeroes(self, offset: int, size: int) -> None:
        """Have a range of the disk read as zeros."""

    def resize(self, size: int) -> None:
        """Make the disk shorter, or longer with zeros, and flush."""

    def flush(self) -> None:
        """Return when all that was written survives a crash."""

    def close(self) -> None:
        """Flush, and close the file."""


class Opened:
    """The layers of a chain, none of them locked yet: a context manager.

    What was written is flushed, and all is closed, at the end.

    Args:
        top: The highest image.
        image_format: Of that; None to look at its first bytes.
        allow_backing: As in :class:`~hatchway.disk.Chain`.
        use_index: Whether layers that a stored index knows, and that are what they were, are
            opened only if they are read.

    Attributes:
        images: The layers, the base first.

    Raises:
        ImageError: If one cannot be opened, or must not be.
    """

    def __init__(
        self,
        top: Path,
        *,
        image_format: str | None = None,
        allow_backing: Allowing = False,
        use_index: bool = False,
    ) -> None:
        self._descriptors = Descriptors()
        with ExitStack() as opened:
            opened.callback(self._descriptors.close)
            allowed, shortcut = Allowed(top, allow_backing), None
            if use_index:
                shortcut = Shortcut(allowed, self._descriptors, locks=False, opens=False)
                opened.callback(shortcut.close)
            self.images = open_layers(
                top,
                self._descriptors,
                allowed,
                image_format=image_format,
                snapshot=None,
                locks=False,
                shortcut=shortcut,
            )
            for image in self.images:
                opened.callback(image.close)
            self._closing = opened.pop_all()

    def hold(self, images: Sequence[Image]) -> None:
        """Lock layers as QEMU locks what it reads.

        Raises:
            LockedImageError: If another program writes to one.
            ImageError: If one changed since it was opened.
        """
        for image in images:
            for file in {image.file, image.data}:
                if file.fd >= 0:
                    lock_to_read(file.fd, file.path)
            _check_unchanged(image.file)

    def span(self, images: Sequence[Image], *, below_bytes: int = 0) -> Span:
        """Layers as one disk."""
        return self._closing.enter_context(Span(images, below_bytes=below_bytes))

    def write_to(self, image: Image) -> WrittenDisk:
        """Lock a layer as QEMU locks what it writes to; it is read anew what it says.

        Raises:
            LockedImageError: If another program uses it in a way that does not go with that.
            ImageError: If it cannot be written to, or changed since it was opened.
        """
        if image.format == "raw":
            file = open_to_write(image.path)
            self._closing.callback(file.close)
            _check_same(file, image)
            disk = RawDisk(file)
            self._closing.callback(disk.close)
            return disk
        return self.write_to_layer(image)

    def write_to_layer(self, image: Image, *, hides_below: bool = False) -> ActiveLayer:
        """As :meth:`write_to`, of a qcow2 file.

        Args:
            image: The layer.
            hides_below: Whether zeros are written also where what lies below ends before, since
                something longer will lie there.

        Raises:
            UnsupportedImageError: If it is none.
            ImageError: As there.
        """
        files = self.lock_to_write(image)
        below = self.images[: self.images.index(image)]
        span = self.span(below) if below else None
        layer = layer_over(span, image, files.file, files.data, hides_below=hides_below)
        self._closing.callback(layer.close)
        return layer

    def lock_to_write(self, image: Image) -> LockedFiles:
        """Lock a qcow2 file as QEMU locks what it writes to, until all is closed.

        Raises:
            ImageError: As in :meth:`write_to`.
        """
        files = LockedFiles(image.path, lock=True)
        self._closing.callback(files.close)
        files.open_data_file_of(image)
        _check_same(files.file, image)
        return files

    def number_of(self, layer: int | str | os.PathLike[str]) -> int:
        """The number of a layer that is named so: by its number, the base being 0, or its file.

        Raises:
            ValueError: If there is none.
        """
        if isinstance(layer, int):
            if 0 <= layer < len(self.images):
                return layer
            raise ValueError(
                f"the chain of {self.images[-1].path} has layers 0 to {len(self.images) - 1}, and "
                f"no layer {layer}"
            )
        try:
            status = os.stat(layer)
        except OSError as error:
            raise BackingFileError(
                f"{layer} cannot be opened: {error.strerror}", path=Path(layer)
            ) from error
        for number, image in enumerate(self.images):
            if image.file.identity[:2] == (status.st_dev, status.st_ino):
                return number
        raise ValueError(f"{os.fspath(layer)} is no file of the chain of {self.images[-1].path}")

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()


def layer_over(
    below: Span | None,
    image: Image,
    file: OpenFile,
    data: OpenFile | None = None,
    *,
    hides_below: bool = False,
) -> ActiveLayer:
    """A file that is written to, above the disk that it is to read below; None for none."""
    below_bytes = 0 if below is None else below.size
    if hides_below:
        below_bytes = max(below_bytes, image.size)
    return ActiveLayer(
        image,
        file,
        data,
        (lambda offset, size: b"") if below is None else below.read_at,
        below_bytes=below_bytes,
        cache_bytes=_CACHE_BYTES,
    )


def refuse_snapshots(image: Image, what: str) -> None:
    """Raise if a file has internal snapshots, which an operation would change or lose.

    Raises:
        UnsupportedImageError: If so.
    """
    if image.header is not None and image.header.num_snapshots:
        raise UnsupportedImageError(
            f"{image.path} has {image.header.num_snapshots} internal snapshots, which {what}; "
            f"copy out what is needed of them (qemu-img convert -l), and delete them: qemu-img "
            f"snapshot -d NAME {image.path}",
            path=image.path,
        )


def _check_same(file: OpenFile, image: Image) -> None:
    """Raise if what was locked is not what was opened before."""
    found = os.fstat(file.fd)
    if (found.st_dev, found.st_ino) != image.file.identity[:2]:
        raise _changed(image.path)
    _check_unchanged(image.file)


def _check_unchanged(file: ImageFile) -> None:
    if file.fd < 0:
        return
    found = os.fstat(file.fd)
    if (found.st_mtime_ns, found.st_ctime_ns) != (
        file.identity.modified_ns,
        file.identity.changed_ns,
    ):
        raise _changed(file.path)


def _changed(path: Path) -> ImageError:
    return ImageError(
        f"{path} was changed by another program while its chain was opened; do it again", path=path
    )
