"""Kernels of hatchway.disk."""

from collections.abc import Sequence
from typing import Any


def abi_version() -> int:
    """Compared when it is loaded."""

def open_files(paths: list[bytes], locks: bool) -> list[tuple[int, int, int, int, int, int]]:
    """
    Open files to be read: descriptor and identity of each, up to the first that is not the common case.
    """

class ChainKernel:
    """A chain as one disk, in the common case; see native/disk/chain.hpp."""

    def __init__(self, layers: list[tuple[int, ...]], *, size: int, granule_bits: int, most_bytes: int, may_merge: bool, twin: ChainKernel | None = None) -> None:
        """
        A twin is a chain of the same files, whose leaves this one has as well.
        """

    def read_at(self, offset: object, size: object) -> bytes | None:
        """Bytes of the disk; None where the case is not the common one."""

    def read_into(self, offset: object, buffer: object) -> bool:
        """Fill a buffer; False where the case is not the common one."""

    def overwrite(self, offset: object, data: object) -> bool:
        """
        Write over what lies in the highest file already; False if not all of it does.
        """

    def load(self, rank: int) -> bool:
        """
        Merge a leaf that is not there; False where the case is not the common one.
        """

    def merged(self, rank: int, first: int, end: int) -> tuple[bytes, bytes] | None:
        """
        Words and layers of a leaf, of layers [first, end) only, which is not kept.
        """

    def leaf(self, rank: int) -> tuple[bytes, bytes] | None:
        """Words and layers of a leaf, if it is there."""

    def put(self, rank: int, words: object, layers: object) -> None:
        """Keep a leaf."""

    def update(self, start: int, entries: bytes) -> bool:
        """
        The highest file has these L2 entries of the guest clusters from an offset on now; False where leaves that lie there are to be dropped.
        """

    def drop(self, first: int, end: int) -> None:
        """Forget leaves [first, end)."""

    def num_bytes(self) -> int:
        """What the leaves take that are kept."""

    def allow_overwriting(self, may: bool, noted_bytes: int = 0) -> None:
        """
        Whether data of the highest file belongs to the disk alone; and the bytes of a granule of which it is noted that it was overwritten, a power of 2, or 0.
        """

    def stop_overwriting(self) -> list[tuple[int, bytes]]:
        """
        Returns when nobody overwrites any more: of the bits of the granules, the lowest of a byte first, pieces of bytes with what was noted, and the byte where each begins.
        """

    def resize(self, size: int) -> None:
        """The disk has so many bytes now."""

    def replace_top(self, top: list[tuple[int, ...]]) -> None:
        """Other files take the highest one's place; leaves say what they said."""

    def settle(self) -> None:
        """Returns when nobody uses what was found before."""

    def close(self) -> None:
        """The files are closed after this."""

    def after_fork(self) -> None:
        """To be called in the child of a fork."""

class TableReader:
    """The L2 entries of a file; see native/disk/tables.hpp."""

    def __init__(self, layer: tuple[int, ...]) -> None: ...

    @property
    def is_open(self) -> bool:
        """False where the file is left to Python."""

    @property
    def next_byte(self) -> int | None:
        """From which guest offset on there is more; None at the end."""

    def take(self, end: int) -> bytes | None:
        """
        The entries up to a guest offset, and the numbers of their clusters; None where the case is not the common one.
        """

    def paint(self, end: int, *, start: int, granule_bits: int, words: object, layers: object, is_painted: object, number: int) -> bytes | None:
        """
        As take; and what they say is in the arrays of leaves from a guest offset on.
        """

def listen_at(path: bytes) -> int:
    """
    The descriptor of a new socket that listens at a name in the file system, which this user only may use.
    """

def share_arena() -> None:
    """
    Have threads that are started from now on take small memory from where others do.
    """

class NbdServer:
    """Serves chains over NBD; see native/disk/nbd/server.hpp."""

    def __init__(self, exports: list[tuple[str, ChainKernel, Any, bool]], *, num_threads: int, most_connections: int, most_bytes: int, patience_s: float) -> None:
        """
        Exports are (name, kernel, backend, read_only); see Backend in nbd/exports.hpp.
        """

    def start(self, listening: Sequence[int]) -> None:
        """Take clients from sockets that listen, which stay the caller's."""

    def stop(self, patience_s: float) -> None:
        """Answer what has come, and end; within so many seconds."""

    def statistics(self) -> dict[str, int]:
        """What was done until now."""
