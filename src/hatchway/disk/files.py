"""The files of a chain, and how many of them are open at a time."""

from __future__ import annotations

import errno
import os
import resource
import stat
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

from hatchway.disk.errors import BackingFileError, ImageError

# Left for everything else in the process when a chain has more files than may be open.
_SPARE_DESCRIPTORS = 64
# Of the files that are opened when they are needed, as many stay open.
_NUM_RECENT = 16
_MOST_BYTES = (1 << 63) - 1


class Identity(NamedTuple):
    """What tells a file from another one, and from what it was."""

    device: int
    inode: int
    file_bytes: int
    modified_ns: int
    changed_ns: int


class ImageFile:
    """A file of a chain, read by any number of threads.

    Attributes:
        fd: Its descriptor, or -1 while it is opened for each read.
        identity: As it was when it was opened, or :meth:`note_writes` was called.
    """

    # A chain has up to thousands of these.
    __slots__ = ("_descriptors", "_path", "fd", "identity")

    def __init__(self, path: Path, descriptors: Descriptors) -> None:
        self.fd = -1
        self._path: Path | str = path
        self._descriptors = descriptors
        self.fd = open_to_read(path)
        try:
            self.identity = _identity_of(self.fd, path)
            if not descriptors.may_keep():
                os.close(self.fd)
                self.fd = -1
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, path: str, descriptors: Descriptors, fd: int, identity: Identity) -> ImageFile:
        """A file that is open, and counted, already; its descriptor is this object's then."""
        file = cls.__new__(cls)
        file._path, file.fd, file.identity = path, fd, identity
        file._descriptors = descriptors
        return file

    @property
    def path(self) -> Path:
        """As it was opened."""
        # To make a path takes as long as to open a file: of a thousand, few are asked for.
        if isinstance(self._path, str):
            self._path = Path(self._path)
        return self._path

    def forget_path(self) -> None:
        """Keep its name only, which takes less, until the path is asked for."""
        self._path = str(self._path)

    @property
    def name(self) -> str:
        """Its path, as a string."""
        return os.fspath(self._path)

    @property
    def file_bytes(self) -> int:
        """How long the file was when it was opened."""
        return self.identity.file_bytes

    def read(self, num_bytes: int, offset: int) -> bytes:
        """As ``os.pread``: fewer bytes only at the end of the file."""
        try:
            if self.fd >= 0:
                return read_all(self.fd, num_bytes, offset)
            return self._descriptors.read(self, num_bytes, offset)
        except OSError as error:
            raise ImageError(
                f"{self.path} cannot be read at {offset:#x}: {error.strerror}",
                path=self.path,
                offset=offset,
            ) from error

    def note_writes(self) -> None:
        """Take it for what it is now, after its own chain wrote to it, if it is open."""
        if self.fd >= 0:
            self.identity = _identity_of(self.fd, self.path)

    def close(self) -> None:
        """Close it, if it is open."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close


class Descriptors:
    """Bounds how many files of a chain are open at a time.

    As many as the limit of this process allows stay open until the chain is closed; the
    limit is raised as far as it may be. Others are opened when they are read, one thread at
    a time.

    Args:
        most: Bound that the user gave; None for what the process may have.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._num_kept = 0
        self._recent: OrderedDict[Path, int] = OrderedDict()
        self._lock = threading.Lock()

    def may_keep(self, count: int = 1) -> bool:
        """Whether so many more files may stay open; counts them if so."""
        most = self._room(count) if self._most is None else self._most - _NUM_RECENT
        if self._num_kept + count > most:
            return False
        self._num_kept += count
        return True

    def forget(self, count: int) -> None:
        """So many files that were to stay open do not."""
        self._num_kept -= count

    def read(self, file: ImageFile, num_bytes: int, offset: int) -> bytes:
        """Read a file that is not kept open."""
        with self._lock:
            fd = self._recent.pop(file.path, -1)
            if fd < 0:
                fd = self._open_again(file)
            self._recent[file.path] = fd
            return read_all(fd, num_bytes, offset)

    def close(self) -> None:
        """Close what was opened to be read."""
        with self._lock:
            while self._recent:
                os.close(self._recent.popitem()[1])

    __del__ = close

    def _open_again(self, file: ImageFile) -> int:
        while len(self._recent) >= _NUM_RECENT:
            os.close(self._recent.popitem(last=False)[1])
        fd = open_to_read(file.path)
        if _identity_of(fd, file.path)[:2] != file.identity[:2]:
            os.close(fd)
            raise ImageError(
                f"{file.path} was replaced by another file while its chain was open; open the "
                "chain anew",
                path=file.path,
            )
        return fd

    def _room(self, count: int) -> int:
        """How many files may be kept open, where ``count`` more are to be."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self._num_kept + count + 2 * _SPARE_DESCRIPTORS
        if soft != resource.RLIM_INFINITY and soft < wanted and soft != hard:
            more = wanted * 2 if hard == resource.RLIM_INFINITY else min(hard, wanted * 2)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
                soft = more
            except (OSError, ValueError):
                pass  # a sandbox may forbid it; then fewer are kept
        return 1 << 16 if soft == resource.RLIM_INFINITY else soft - _SPARE_DESCRIPTORS


def read_all(fd: int, num_bytes: int, offset: int) -> bytes:
    """As ``os.pread``, which a signal may cut short: fewer bytes only at the end of the file."""
    if offset > _MOST_BYTES - num_bytes:
        return b""  # no file is that long, and the system does not take the number
    found = os.pread(fd, num_bytes, offset)
    while found and len(found) < num_bytes:
        more = os.pread(fd, num_bytes - len(found), offset + len(found))
        if not more:
            break
        found += more
    return found


def write_all(fd: int, data: Any, offset: int) -> None:
    """As ``os.pwrite``, until all of a buffer is written."""
    view = memoryview(data).cast("B")
    while view:
        num_bytes = os.pwrite(fd, view, offset)
        view, offset = view[num_bytes:], offset + num_bytes


def open_to_read(path: Path) -> int:
    """Open a regular file or block device; nothing else is waited for or read.

    Raises:
        BackingFileError: If it is not there, or not to be read.
        ImageError: If it is something else, or no descriptor is left.
    """
    try:
        # A pipe would block here, were it not for O_NONBLOCK, which files ignore.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise ImageError(
                f"{path} cannot be opened: {error.strerror}; raise the limit (ulimit -n) or pass "
                "a smaller max_descriptors",
                path=path,
            ) from error
        raise BackingFileError(f"{path} cannot be opened: {error.strerror}", path=path) from error


def _identity_of(fd: int, path: Path) -> Identity:
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        num_bytes = os.lseek(fd, 0, os.SEEK_END)
    elif stat.S_ISREG(status.st_mode):
        num_bytes = status.st_size
    else:
        raise ImageError(f"{path} is neither a regular file nor a block device", path=path)
    return identity_of(status)._replace(file_bytes=num_bytes)


def identity_of(status: os.stat_result) -> Identity:
    """Of a regular file."""
    return Identity(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )
