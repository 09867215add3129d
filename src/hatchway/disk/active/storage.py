"""Files that are written to: what a layer needs of one, and the file of a host."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from hatchway.disk.errors import ImageError, ImageWriteError
from hatchway.disk.files import read_all, write_all
from hatchway.disk.locks import lock_to_write

_MOST_BUFFERS = os.sysconf("SC_IOV_MAX")


class WritableFile(Protocol):
    """A file that is read and written at offsets.

    What was written is read back at once, and survives a crash only after :meth:`sync`: of
    what was written since the last one, any part may be lost, sector by sector.
    """

    @property
    def path(self) -> Path:
        """Where it is, for messages."""

    @property
    def file_bytes(self) -> int:
        """How long it is now."""

    def pread(self, num_bytes: int, offset: int) -> bytes:
        """As ``os.pread``: fewer bytes only at the end of the file.

        Raises:
            ImageError: If it cannot be read.
        """

    def pwrite(self, data: Any, offset: int) -> None:
        """Write all of a buffer.

        Raises:
            ImageWriteError: If it cannot be written; some of it may have been.
        """

    def sync(self) -> None:
        """Return when all that was written survives a crash.

        Raises:
            ImageWriteError: If it may not; what was written since the last time is unknown.
        """

    def truncate(self, num_bytes: int) -> None:
        """Make it shorter, or longer with zeros.

        Raises:
            ImageWriteError: If it cannot be.
        """

    def close(self) -> None:
        """Close it; others may write to it from then on."""


class OpenFile:
    """A regular file or block device of this host, open for reading and writing."""

    _fd = -1

    def __init__(self, path: Path, *, lock: bool = True) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ImageWriteError(
                f"{path} cannot be opened for writing: {error.strerror}",
                path=path,
                errno=error.errno,
            ) from error
        try:
            if lock:
                lock_to_write(self._fd, path)
        except BaseException:
            self.close()
            raise

    @property
    def fd(self) -> int:
        """Its descriptor; -1 when it is closed."""
        return self._fd

    @property
    def file_bytes(self) -> int:
        """How long it is now."""
        return os.lseek(self._fd, 0, os.SEEK_END)

    def pread(self, num_bytes: int, offset: int) -> bytes:
        """As ``os.pread``: fewer bytes only at the end of the file."""
        try:
            return read_all(self._fd, num_bytes, offset)
        except OSError as error:
            raise ImageError(
                f"{self.path} cannot be read at {offset:#x}: {error.strerror}",
                path=self.path,
                offset=offset,
            ) from error

    def pwrite(self, data: Any, offset: int) -> None:
        """Write all of a buffer."""
        try:
            write_all(self._fd, data, offset)
        except OSError as error:
            raise self._failed(error, f"written at {offset:#x}", offset) from error

    def pwritev(self, buffers: Sequence[Any], offset: int) -> None:
        """Write all of some buffers, one behind the other."""
        for first in range(0, len(buffers), _MOST_BUFFERS):
            some = buffers[first : first + _MOST_BUFFERS]
            num_bytes = sum(map(len, some))
            try:
                done = os.pwritev(self._fd, some, offset)
            except OSError as error:
                raise self._failed(error, f"written at {offset:#x}", offset) from error
            if done < num_bytes:
                self.pwrite(b"".join(some)[done:], offset + done)
            offset += num_bytes

    def sync(self) -> None:
        """Return when all that was written survives a crash."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._failed(error, "synced", None) from error

    def truncate(self, num_bytes: int) -> None:
        """Make it shorter, or longer with zeros."""
        try:
            os.ftruncate(self._fd, num_bytes)
        except OSError as error:
            raise self._failed(error, f"made {num_bytes} bytes long", None) from error

    def close(self) -> None:
        """Close it, if it is open."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close

    def _failed(self, error: OSError, what: str, offset: int | None) -> ImageWriteError:
        return ImageWriteError(
            f"{self.path} cannot be {what}: {error.strerror}",
            path=self.path,
            offset=offset,
            errno=error.errno,
        )


def open_to_write(path: Path, *, lock: bool = True) -> OpenFile:
    """Open a file that is to be written to.

    Args:
        path: Of a regular file or block device.
        lock: Whether it is locked as QEMU locks what it writes to: others may read it, and no
            more.

    Raises:
        ImageError: If it is something else.
        ImageWriteError: If it is not there, or not to be written to.
        LockedImageError: If another program writes to it, or refuses others to.
    """
    status = path.stat() if path.exists() else None
    if status is not None and not (path.is_file() or path.is_block_device()):
        raise ImageError(f"{path} is neither a regular file nor a block device", path=path)
    return OpenFile(path, lock=lock)
