"""Sockets that a server listens on."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import urllib.parse
from pathlib import Path

from hatchway.disk.kernel import listen_at

# What a name in the file system may have, as the address of a socket.
_MOST_PATH_BYTES = 107


class Listening:
    """A socket that listens; one in the file system is removed when it is closed.

    Args:
        fd: Its descriptor, which is this object's then.
        address: The name in the file system; or host and port.

    Attributes:
        fd: Its descriptor; -1 when it is closed.
    """

    def __init__(self, fd: int, address: Path | tuple[str, int]) -> None:
        self.fd = fd
        self._address = address
        self._inode = os.stat(address).st_ino if isinstance(address, Path) else -1

    def uri(self, name: str = "") -> str:
        """Where an export of this name is, as NBD clients write it."""
        name = urllib.parse.quote(name, safe="")
        if isinstance(self._address, Path):
            return f"nbd+unix:///{name}?socket={urllib.parse.quote(str(self._address))}"
        host, port = self._address
        host = f"[{host}]" if ":" in host else host
        return f"nbd://{host}:{port}/{name}"

    def close(self) -> None:
        """Listen no longer."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        os.close(fd)
        path = self._address
        if isinstance(path, Path):
            # Unless another server has put its own there meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == self._inode:
                    path.unlink()


def listen_at_path(path: Path) -> Listening:
    """Listen at a name in the file system, for this user only.

    A socket that nobody listens on any more is replaced.

    Raises:
        OSError: If another server listens there, or something else has that name.
        RuntimeError: If Hatchway's compiled kernels are missing.
    """
    path = path.absolute()
    if len(os.fsencode(path)) > _MOST_PATH_BYTES:
        raise OSError(
            errno.ENAMETOOLONG,
            f"the name of a socket may have {_MOST_PATH_BYTES} bytes; use a shorter directory",
            str(path),
        )
    try:
        fd = listen_at(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        _remove_stale(path)
        fd = listen_at(path)
    try:
        return Listening(fd, path)
    except BaseException:
        os.close(fd)
        raise


def listen_at_port(host: str, port: int) -> Listening:
    """Listen at a TCP port; 0 for any free one.

    Raises:
        OSError: If that is not possible.
    """
    import socket  # a name in the file system needs nothing of it

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(error.errno, f"{host}:{port}: {error.strerror}") from error
    # What connections have from the socket that they came to. A host that is gone is noticed
    # within two minutes, whether or not it has answers to take; one that is only slow answers
    # for itself.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_KEEPIDLE, 60),
        (socket.TCP_KEEPINTVL, 15),
        (socket.TCP_KEEPCNT, 4),
        (socket.TCP_USER_TIMEOUT, 120_000),
    ):
        listening.setsockopt(socket.IPPROTO_TCP, option, value)
    address = listening.getsockname()[:2]
    return Listening(listening.detach(), address)


def _remove_stale(path: Path) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(errno.EEXIST, "this is no socket, and is left as it is", str(path))
    import socket

    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "another server listens there", str(path))
