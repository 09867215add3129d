"""Descriptors of another process of this user, opened through ``/proc``.

A number of a descriptor says little: its process may have ended, and both numbers may stand
for something else by now, a file of the user's say. So what is opened is compared with the
inode that was promised, before it is opened (which has effects on devices) and after.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from hatchway.loader.shared import Bell


class Distant:
    """The descriptors of another process, as far as it lives.

    An open directory of ``/proc`` stands for one process, also when its number is used again.

    Args:
        pid: Its number.

    Raises:
        OSError: If it is gone, or another user's.
    """

    def __init__(self, pid: int) -> None:
        self._directory = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY)
        if os.fstat(self._directory).st_uid != os.geteuid():
            self.close()
            raise PermissionError(errno.EPERM, f"process {pid} is another user's")

    def open(self, number: int, inode: int, flags: int) -> int:
        """A descriptor of one's own for what the other process has open as ``number``.

        Raises:
            OSError: If that is not, or no longer, what has this inode.
        """
        if os.stat(f"{number}", dir_fd=self._directory).st_ino == inode:
            opened = os.open(f"{number}", flags | os.O_CLOEXEC, dir_fd=self._directory)
            if os.fstat(opened).st_ino == inode:
                return opened
            os.close(opened)
        raise OSError(errno.ESTALE, f"descriptor {number} is something else by now")

    def close(self) -> None:
        """Let go of the process."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


class DistantBell(Bell):
    """A bell of another process's that is rung rarely: opened for each ring.

    Args:
        process: Whose bell it is.
        number: The process's descriptor to write to.
        inode: Of the pipe.
    """

    def __init__(self, process: Distant, number: int, inode: int) -> None:
        self._process, self._number, self._inode = process, number, inode
        self._read = self._write = -1

    def ring(self) -> None:
        """Wake whoever waits, if the process is still there; never blocks."""
        with contextlib.suppress(OSError):
            pipe = self._process.open(self._number, self._inode, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(pipe, b"\0")
            finally:
                os.close(pipe)


def started(pid: int) -> int:
    """When a process started, in ticks since boot; 0 if there is none of that number.

    Raises:
        OSError: If that cannot be told now.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text.rpartition(")")[2].split()[19])


def watch(pid: int) -> int:
    """A descriptor that becomes readable when a process ends.

    Raises:
        OSError: If there is none of that number.
    """
    return os.pidfd_open(pid)
