"""Memory, a lock and wake-ups that all processes of one loader share.

Memory has no name (memfd): nothing is left behind however the processes end,
and the size of ``/dev/shm`` does not matter. Where the system has no memfd, an
unlinked file in ``/dev/shm`` takes its place, and room in it is reserved before
it is written, so that a full one is an error and never a bus error.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import select
import sys
import tempfile
import threading
from multiprocessing import reduction
from typing import Any

from hatchway.base.units import format_bytes
from hatchway.loader.errors import SharedMemoryError

_POSIX_LOCK_BYTES = 1
# Linux 5.14; the mmap module has no name for it yet.
_MADV_POPULATE_WRITE = 23


class SharedMapping:
    """``nbytes`` of zeroed, sparse shared memory; picklable while a worker starts."""

    def __init__(self, nbytes: int, *, directory: str | None = None) -> None:
        fd = -1 if directory else _memfd("hatchway")
        self.has_fixed_size = fd < 0
        if fd < 0:
            fd = _unnamed_file(directory)
        self._attach(fd, nbytes)

    @classmethod
    def of(cls, fd: int, nbytes: int, *, has_fixed_size: bool = False) -> SharedMapping:
        """The mapping of shared memory that was made before, by its descriptor."""
        mapping = cls.__new__(cls)
        mapping.has_fixed_size = has_fixed_size
        mapping._attach(fd, nbytes)
        return mapping

    def _attach(self, fd: int, nbytes: int) -> None:
        self.fd = fd
        self.nbytes = nbytes
        try:
            if os.fstat(fd).st_size < nbytes:
                os.ftruncate(fd, nbytes)
            self.memory = mmap.mmap(fd, nbytes)
        except (OSError, ValueError, OverflowError) as error:
            os.close(fd)
            raise SharedMemoryError(
                f"cannot map {format_bytes(nbytes)} of shared memory ({error}); "
                "lower buffer_bytes= or raise the limit of address space (ulimit -v)"
            ) from error

    def map_again(self) -> mmap.mmap:
        """The same memory at other addresses."""
        return mmap.mmap(self.fd, self.nbytes)

    def reserve(self, offset: int, nbytes: int) -> None:
        """Make sure that the file system has room, where it has a size of its own."""
        if not (self.has_fixed_size and hasattr(os, "posix_fallocate")):
            return
        try:
            os.posix_fallocate(self.fd, offset, nbytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
                raise
            raise SharedMemoryError(
                error.errno,
                f"no room for {format_bytes(nbytes)} more in the file system of the shared "
                "buffer; give /dev/shm more room (docker run --shm-size=...) or lower "
                "buffer_bytes=, batch_size= or prefetch_factor=",
            ) from error

    def give_back(self, offset: int, nbytes: int) -> bool:
        """Return the memory of whole pages to the kernel; they read as zeros after.

        Returns:
            Whether the system and the file system can do that.
        """
        if not hasattr(mmap, "MADV_REMOVE"):
            return False
        try:
            self.memory.madvise(mmap.MADV_REMOVE, offset, nbytes)
        except OSError:
            return False
        return True

    def populate(self, offset: int, nbytes: int) -> None:
        """Map the whole pages of a range into this process, if the kernel can.

        At once, 4 KiB cost 1.2 us the first time and 0.2 us in each further process;
        page by page, as they are written, 2.4 and 0.75.
        """
        begin = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (offset + nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if sys.platform == "linux" and end > begin:
            with contextlib.suppress(OSError):
                self.memory.madvise(_MADV_POPULATE_WRITE, begin, end - begin)

    def close(self) -> None:
        """Close the descriptor; the memory lives on while something looks at it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __reduce__(self) -> tuple[Any, ...]:
        return _reattach, (reduction.DupFd(self.fd), self.nbytes, self.has_fixed_size)


def _reattach(duplicate: Any, nbytes: int, has_fixed_size: bool) -> SharedMapping:
    return SharedMapping.of(duplicate.detach(), nbytes, has_fixed_size=has_fixed_size)


def _memfd(name: str) -> int:
    """A file without a name in memory, or -1 where the system has or allows none."""
    try:
        return os.memfd_create(name)
    except AttributeError:
        return -1
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return -1


def _unnamed_file(directory: str | None) -> int:
    if directory is None:
        directory = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
    fd, path = tempfile.mkstemp(prefix="hatchway-", dir=directory)
    os.unlink(path)
    return fd


class ProcessLock:
    """A lock between processes that the kernel releases when its holder dies.

    Not between threads: the training process uses it from one thread at a time.
    A lock and unlock cost 1 us.
    """

    def __init__(self) -> None:
        self._fd = _memfd("hatchway-lock")
        if self._fd < 0:
            self._fd = _unnamed_file(None)

    @classmethod
    def of(cls, fd: int) -> ProcessLock:
        """The lock that a file stands for.

        The process must close no other descriptor of the file while it holds the lock:
        that would release it.
        """
        lock = cls.__new__(cls)
        lock._fd = fd
        return lock

    def fileno(self) -> int:
        """The descriptor of the file that stands for it."""
        return self._fd

    def __enter__(self) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_EX, _POSIX_LOCK_BYTES)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, _POSIX_LOCK_BYTES)

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_lock, (reduction.DupFd(self._fd),)


def _rebuild_lock(duplicate: Any) -> ProcessLock:
    return ProcessLock.of(duplicate.detach())


class ThreadLock:
    """A lock between the threads of one process, in the place of a ProcessLock."""

    def __init__(self) -> None:
        # Knows its owner, in one step with being taken: an interrupt cannot come between.
        self._lock: Any = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def let_go(self) -> None:
        """Release it if this thread holds it."""
        while self._lock._is_owned():
            self._lock.release()

    def close(self) -> None:
        """Nothing to close."""


class Bell:
    """Wakes one sleeping process or thread; a ring before the sleep is not lost."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    @classmethod
    def of(cls, read: int, write: int) -> Bell:
        """The bell whose ends these descriptors are; -1 for an end that is not at hand."""
        bell = Bell.__new__(Bell)
        bell._read, bell._write = read, write
        return bell

    @property
    def ends(self) -> tuple[int, int]:
        """The descriptors to poll and to write to."""
        return self._read, self._write

    def fileno(self) -> int:
        """The descriptor to poll for a ring."""
        return self._read

    def ring(self) -> None:
        """Wake whoever waits; never blocks."""
        if self._write >= 0:
            with contextlib.suppress(BlockingIOError):
                os.write(self._write, b"\0")

    def silence(self) -> None:
        """Forget the rings so far."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._read, 4096)) == 4096:
                pass

    def close(self) -> None:
        """Close both ends."""
        read, write, self._read, self._write = self._read, self._write, -1, -1
        for end in (read, write):
            if end >= 0:
                os.close(end)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_bell, (reduction.DupFd(self._read), reduction.DupFd(self._write))


def _rebuild_bell(read: Any, write: Any) -> Bell:
    return Bell.of(read.detach(), write.detach())


def wait_readable(descriptors: list[int], timeout_s: float | None) -> list[int]:
    """Block until one of the descriptors can be read; those that can.

    Unlike ``select.select`` it takes descriptors above 1,023.
    """
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    timeout_ms = None if timeout_s is None else max(0, int(timeout_s * 1000 + 0.999))
    return [descriptor for descriptor, _ in poll.poll(timeout_ms)]
