"""Sockets that a server listens on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import urllib.parse
from pathlib import Path

# What a name in the file system may have, as the address of a socket.
_MOST_PATH_BYTES = 107


class Listening:
    """A socket that listens; one in the file system is removed when it is closed.

    Attributes:
        socket: The socket.
    """

    def __init__(self, listening: socket.socket, path: Path | None = None) -> None:
        self.socket = listening
        self._path = path
        self._inode = None if path is None else os.stat(path).st_ino

    def uri(self, name: str = "") -> str:
        """Where an export of this name is, as NBD clients write it."""
        name = urllib.parse.quote(name, safe="")
        address = self.socket.getsockname()
        if self.socket.family == socket.AF_UNIX:
            return f"nbd+unix:///{name}?socket={urllib.parse.quote(str(address))}"
        host, port = address[:2]
        host = f"[{host}]" if ":" in host else host
        return f"nbd://{host}:{port}/{name}"

    def close(self) -> None:
        """Listen no longer."""
        self.socket.close()
        path, self._path = self._path, None
        if path is not None:
            # Unless another server has put its own there meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == self._inode:
                    path.unlink()


def listen_at_path(path: Path) -> Listening:
    """Listen at a name in the file system, for this user only.

    A socket that nobody listens on any more is replaced.

    Raises:
        OSError: If another server listens there, or something else has that name.
    """
    path = path.absolute()
    if len(os.fsencode(path)) > _MOST_PATH_BYTES:
        raise OSError(
            errno.ENAMETOOLONG,
            f"the name of a socket may have {_MOST_PATH_BYTES} bytes; use a shorter directory",
            str(path),
        )
    listening = socket.socket(socket.AF_UNIX)
    try:
        # The mode that the name will have: Linux takes it from the socket.
        os.fchmod(listening.fileno(), 0o600)
        try:
            listening.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise OSError(error.errno, error.strerror, str(path)) from None
            _remove_stale(path)
            listening.bind(str(path))
        listening.listen()
        return Listening(listening, path)
    except BaseException:
        listening.close()
        raise


def listen_at_port(host: str, port: int) -> Listening:
    """Listen at a TCP port; 0 for any free one.

    Raises:
        OSError: If that is not possible.
    """
    try:
        listening = socket.create_server((host, port), family=_family_of(host))
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
    return Listening(listening)


def _family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _remove_stale(path: Path) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(errno.EEXIST, "this is no socket, and is left as it is", str(path))
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "another server listens there", str(path))
