"""Chains served over NBD, to virtual machines and other programs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hatchway.disk import kernel
from hatchway.disk.addresses import Listening, listen_at_path, listen_at_port
from hatchway.disk.chain import Chain
from hatchway.disk.errors import ImageError, ImageWriteError

if TYPE_CHECKING:
    from hatchway.disk._native import NbdServer

_NUM_THREADS = 16
_MAX_CONNECTIONS = 256
_PATIENCE_S = 5.0
# Of all clients together, for requests and answers on their way; a client that keeps some of
# that and takes nothing is ended if others wait for so long.
_MOST_BYTES = 256 << 20
_STUCK_S = 30.0


class Server:
    """Serves chains over NBD until it is closed, from threads that do not need the GIL.

    Clients get structured replies, block status (``base:allocation`` and
    ``qemu:allocation-depth``) and may open several connections to one export; a chain that is
    open for writing they may write to. What lies in
    the page cache is answered by the connection's own thread; what may wait is left to a
    pool. The protocol is the NBD project's (``doc/proto.md``); there is no encryption, so a TCP
    port is for hosts that are trusted.

    Args:
        exports: The chains by name; or one chain, whose name is empty.
        socket_path: A name in the file system to listen at, for this user only.
        address: Host and TCP port to listen at; port 0 for any free one.
        listening: Sockets that listen already.
        num_threads: Threads of the pool.
        max_connections: How many clients are served at a time; further ones are told so.

    Raises:
        ValueError: If there is nothing to serve, or nowhere to listen.
        OSError: If an address cannot be had.
        RuntimeError: If Hatchway's compiled kernels are missing.
    """

    def __init__(
        self,
        exports: Chain | Mapping[str, Chain],
        *,
        socket_path: str | os.PathLike[str] | None = None,
        address: tuple[str, int] | None = None,
        listening: Sequence[Listening] = (),
        num_threads: int = _NUM_THREADS,
        max_connections: int = _MAX_CONNECTIONS,
    ) -> None:
        chains = {"": exports} if isinstance(exports, Chain) else dict(exports)
        if not chains:
            raise ValueError("exports must name at least one chain")
        if socket_path is None and address is None and not listening:
            raise ValueError("socket_path, address or listening must say where to listen")
        if num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, not {num_threads}")
        if max_connections < 1:
            raise ValueError(f"max_connections must be at least 1, not {max_connections}")
        self._pid = os.getpid()
        self._names = list(chains)
        self._listening = list(listening)
        native = kernel.nbd_server_class()
        self._server: NbdServer = native(
            [
                (name, chain.kernel(), _Backend(chain), not chain.is_writable)
                for name, chain in chains.items()
            ],
            num_threads=num_threads,
            most_connections=max_connections,
            most_bytes=_MOST_BYTES,
            patience_s=_STUCK_S,
        )
        try:
            if socket_path is not None:
                self._listening.append(listen_at_path(Path(socket_path)))
            if address is not None:
                self._listening.append(listen_at_port(*address))
            self._server.start([one.fd for one in self._listening])
        except BaseException:
            self.close()
            raise

    @property
    def uris(self) -> list[str]:
        """Where each export is, as NBD clients write it."""
        return [one.uri(name) for one in self._listening for name in self._names]

    def statistics(self) -> dict[str, int]:
        """What was done until now.

        Returns:
            ``num_clients`` (connected now), ``num_connections``, ``num_refused`` (for want of
            room), ``num_requests``, ``num_handed_on`` (to the pool), ``read_bytes``,
            ``written_bytes``.
        """
        return self._server.statistics()

    def close(self, patience_s: float = _PATIENCE_S) -> None:
        """Answer what has come, and end. The chains stay open.

        Args:
            patience_s: After so long, clients that do not take their answers are left.
        """
        if os.getpid() != self._pid:
            return  # a fork has none of its threads, and the name is the parent's
        for one in self._listening:
            one.close()
        self._server.stop(patience_s)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Backend:
    """What the native server leaves to Python: each method returns 0 or an error's number."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def read(self, offset: int, size: int) -> bytes | int:
        found: list[bytes] = []
        failed = _guarded(lambda: found.append(self._chain.read_at(offset, size)))
        return failed or found[0]

    def load(self, rank: int) -> int:
        return _guarded(lambda: self._chain.load_leaf(rank))

    def write(self, offset: int, data: memoryview, fua: bool) -> int:
        """The data are there during the call only."""
        return self._done(lambda: self._chain.write_at(offset, data), fua)

    def write_zeroes(self, offset: int, size: int, may_unmap: bool, fua: bool) -> int:
        return self._done(
            lambda: self._chain.write_zeroes_at(offset, size, may_unmap=may_unmap), fua
        )

    def discard(self, offset: int, size: int, fua: bool) -> int:
        return self._done(lambda: self._chain.discard_at(offset, size), fua)

    def flush(self) -> int:
        return _guarded(self._chain.flush)

    def _done(self, call: Callable[[], object], fua: bool) -> int:
        return _guarded(call) or (self.flush() if fua else 0)


def _guarded(call: Callable[[], object]) -> int:
    try:
        call()
    except ImageError as error:
        _note(error)
        cause = error if isinstance(error, ImageWriteError) else error.__cause__
        return getattr(cause, "errno", None) or errno.EIO
    except ValueError as error:
        _note(error)
        return errno.EINVAL
    return 0


def _note(error: Exception) -> None:
    import logging  # most servers never need it

    logging.getLogger(__name__).warning("%s", error)
