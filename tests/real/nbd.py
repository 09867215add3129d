"""A plain NBD client, which can also say what no sound client says."""

from __future__ import annotations

import shutil
import socket
import struct
from pathlib import Path
from types import TracebackType

import pytest

READ, WRITE, DISCONNECT, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
EXPORT_NAME, ABORT, LIST, INFO, GO = 1, 2, 3, 6, 7
STRUCTURED_REPLY, LIST_META_CONTEXT, SET_META_CONTEXT = 8, 9, 10
ACK = 1
FUA, DONT_FRAGMENT = 1, 4
POLICY = 1 << 31 | 2
OPTION = struct.Struct(">QII")
OPTION_REPLY = struct.Struct(">QIII")
REQUEST = struct.Struct(">IHHQQI")
SIMPLE = struct.Struct(">IIQ")
CHUNK = struct.Struct(">IHHQI")

MISSING = [tool for tool in ("nbdinfo", "nbdcopy") if shutil.which(tool) is None]
needs_libnbd = pytest.mark.skipif(
    bool(MISSING), reason=f"no {' or '.join(MISSING)} here (`make setup-system` installs them)"
)


class Client:
    """A connection to a server at a name in the file system."""

    def __init__(self, path: Path, patience_s: float = 20.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(patience_s)
        self.socket.connect(str(path))
        self.size = 0
        self.structured = False

    def greet(self) -> None:
        magic, option, flags = struct.unpack(">8sQH", self.take(18))
        assert (magic, option, flags) == (b"NBDMAGIC", 0x49484156454F5054, 3)
        self.socket.sendall(struct.pack(">I", 3))

    def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """The replies to an option, up to the one that ends them."""
        self.socket.sendall(OPTION.pack(0x49484156454F5054, option, len(data)) + data)
        replies = []
        while True:
            magic, _, kind, length = OPTION_REPLY.unpack(self.take(20))
            assert magic == 0x3E889045565A9
            replies.append((kind, self.take(length)))
            if kind == ACK or kind >> 31:
                return replies

    def go(self, name: str = "", *contexts: str, structured: bool = True) -> None:
        """Choose an export."""
        self.greet()
        if structured:
            assert self.option(STRUCTURED_REPLY) == [(ACK, b"")]
            self.structured = True
        if contexts:
            queries = b"".join(counted(one) for one in contexts)
            said = counted(name) + struct.pack(">I", len(contexts)) + queries
            assert self.option(SET_META_CONTEXT, said)[-1][0] == ACK
        replies = self.option(GO, counted(name) + bytes(2))
        assert replies[-1][0] == ACK, replies
        self.size, _ = struct.unpack(">QH", replies[0][1][2:])

    def request(
        self, kind: int, offset: int = 0, length: int = 0, *, cookie: int = 0, flags: int = 0
    ) -> bytes:
        return REQUEST.pack(0x25609513, flags, kind, cookie, offset, length)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def simple_reply(self, num_bytes: int = 0) -> tuple[int, int, bytes]:
        """Cookie, error and data of a reply without structure."""
        magic, error, cookie = SIMPLE.unpack(self.take(16))
        assert magic == 0x67446698
        return cookie, error, self.take(0 if error else num_bytes)

    def chunk(self) -> tuple[int, int, bytes]:
        """Cookie, type and payload of the next chunk."""
        magic, _, kind, cookie, length = CHUNK.unpack(self.take(20))
        assert magic == 0x668E33EF
        return cookie, kind, self.take(length)

    def read(self, offset: int, length: int, flags: int = 0) -> bytes:
        self.send(self.request(READ, offset, length, flags=flags))
        if not self.structured:
            cookie, error, data = self.simple_reply(length)
            assert (cookie, error) == (0, 0)
            return data
        found = b""
        while len(found) < length:
            _, kind, payload = self.chunk()
            at = struct.pack(">Q", offset + len(found))
            assert (kind, payload[:8]) == (1, at), payload[:100]
            found += payload[8:]
        return found

    def status(self, offset: int, length: int, flags: int = 0) -> list[tuple[int, int]]:
        """Lengths and states of the extents of the only context."""
        self.send(self.request(BLOCK_STATUS, offset, length, flags=flags))
        _, kind, payload = self.chunk()
        assert kind == 5, payload
        return list(struct.iter_unpack(">II", payload[4:]))

    def error(self) -> tuple[int, str]:
        """Number and message of the next chunk, which is an error."""
        _, kind, payload = self.chunk()
        assert kind == 0x8001, (kind, payload)
        return struct.unpack(">I", payload[:4])[0], payload[6:].decode()

    def take(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            more = self.socket.recv(size - len(found))
            if not more:
                raise EOFError(f"the server ended after {len(found)} of {size} bytes")
            found += more
        return bytes(found)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.socket.close()


def counted(text: str) -> bytes:
    raw = text.encode()
    return struct.pack(">I", len(raw)) + raw
