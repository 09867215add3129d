"""What records are written to."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Protocol

from hatchway.disk.errors import ImageError
from hatchway.disk.files import read_all, write_all


class WriteTarget(Protocol):
    """A disk that can be written to: a writable chain, a raw file."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of ``data`` from ``offset`` on."""

    def flush(self) -> None:
        """Return when all that was written will survive a crash."""


class ReadTarget(WriteTarget, Protocol):
    """One that can be read as well, as what is appended to must be."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes of the disk; fewer only at its end."""


class RawFile:
    """A raw file as a disk, made if it is not there; it grows as it is written.

    Args:
        path: The file. `qemu-img convert -f raw -O qcow2` makes a base of it.

    Raises:
        ImageError: If it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ImageError(
                f"{path} cannot be opened to be written: {error.strerror}", path=self.path
            ) from error

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes of the file; as ``os.pread``, fewer only at its end."""
        return read_all(self._fd, size, offset)

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of ``data`` from ``offset`` on.

        Raises:
            ImageError: If that cannot be done.
        """
        try:
            write_all(self._fd, data, offset)
        except OSError as error:
            raise ImageError(
                f"{self.path} cannot be written at {offset:#x}: {error.strerror}",
                path=self.path,
                offset=offset,
            ) from error

    def flush(self) -> None:
        """Return when all that was written will survive a crash."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> RawFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    __del__ = close
