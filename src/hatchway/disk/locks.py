"""Locks on image files, as QEMU takes and sees them.

QEMU holds, for each file that it uses, shared locks of single bytes: one at ``_PERMISSION`` plus
a number for each thing that it does to the file, and one at ``_REFUSED`` plus that number for
each thing that nobody else may do meanwhile. Who comes later looks whether anybody refuses
what it wants to do, and whether anybody does what it wants to refuse.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from hatchway.disk.errors import LockedImageError

_PERMISSION, _REFUSED = 100, 200
_READ, _WRITE, _RESIZE = 0, 1, 3
_REFUSALS = {
    _READ: "refuses others to read it",
    _WRITE: "refuses others to write to it",
    _RESIZE: "refuses others to resize it",
}
_FLOCK = struct.Struct("hhqqi4x")
# File systems that have no locks; QEMU goes on without them as well.
_NO_LOCKS = (errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def lock_to_read(fd: int, path: Path) -> None:
    """Refuse to others, until ``fd`` is closed, to write to or resize a file.

    Raises:
        LockedImageError: If somebody does so now, or refuses us to read.
    """
    _lock(fd, path, (_READ,), "pass lock=False to read what may change meanwhile")


def lock_to_write(fd: int, path: Path) -> None:
    """Hold a file for writing, until ``fd`` is closed: others may read it, and no more.

    Raises:
        LockedImageError: If somebody writes to it now, or refuses others to.
    """
    _lock(fd, path, (_READ, _WRITE, _RESIZE), "wait for its end")


def lock_beside_writer(fd: int, path: Path) -> None:
    """As :func:`lock_to_read`, of a file that we hold for writing by another descriptor.

    When that is closed, a write lock has become a read lock: nobody could write in between.

    Raises:
        LockedImageError: If it is locked in a way that QEMU does not use.
    """
    _lock(fd, path, (_READ,), None)


def _lock(fd: int, path: Path, does: tuple[int, ...], way_out: str | None) -> None:
    """Say what we do, refuse to others to write and resize, and look whether that goes.

    Without a way out nobody looks: what we would see is ourselves.
    """
    try:
        for at in (*(_PERMISSION + one for one in does), _REFUSED + _WRITE, _REFUSED + _RESIZE):
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_RDLCK, at))
        if way_out is None:
            return
        for at in (*(_REFUSED + one for one in does), _PERMISSION + _WRITE, _PERMISSION + _RESIZE):
            kind = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, at)))[0]
            if kind != fcntl.F_UNLCK:
                said = _REFUSALS[at - _REFUSED] if at >= _REFUSED else "writes to it"
                raise LockedImageError(
                    f"{path} is open in another program, which {said}; end that program, or "
                    f"{way_out}",
                    path=path,
                )
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise LockedImageError(
                f"{path} is locked by another program in a way that QEMU does not use", path=path
            ) from error
        if error.errno not in _NO_LOCKS:
            raise


def lock_to_append(fd: int) -> None:
    """Wait until nobody else appends to a file, and keep others from it until ``fd`` is closed."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _flock(fcntl.F_WRLCK, 0))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _flock(kind: int, start: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, 1, 0)
