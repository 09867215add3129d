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
_FLOCK = struct.Struct("hhqqi4x")
# File systems that have no locks; QEMU goes on without them as well.
_NO_LOCKS = (errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def lock_to_read(fd: int, path: Path) -> None:
    """Refuse to others, until ``fd`` is closed, to write to or resize a file.

    Raises:
        LockedImageError: If somebody does so now, or refuses us to read.
    """
    try:
        for at in (_PERMISSION + _READ, _REFUSED + _WRITE, _REFUSED + _RESIZE):
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_RDLCK, at))
        for at in (_REFUSED + _READ, _PERMISSION + _WRITE, _PERMISSION + _RESIZE):
            kind = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, at)))[0]
            if kind != fcntl.F_UNLCK:
                does = "refuses others to read it" if at >= _REFUSED else "writes to it"
                raise LockedImageError(
                    f"{path} is open in another program, which {does}; end that program, or pass "
                    "lock=False to read what may change meanwhile",
                    path=path,
                )
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise LockedImageError(
                f"{path} is locked by another program in a way that QEMU does not use", path=path
            ) from error
        if error.errno not in _NO_LOCKS:
            raise


def _flock(kind: int, start: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, 1, 0)
