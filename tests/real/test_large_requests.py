"""Large reads and writes are answered in pieces, which nobody can tell but by their size."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hatchway.disk import Chain, Server
from tests.real import nbd, qemu

pytestmark = [pytest.mark.real, qemu.needs_qemu]

MIB = 1 << 20
PIECE = 256 << 10


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Data, then a compressed cluster, then data again, and a hole: 1 MiB each but for that."""
    path = qemu.create(tmp_path / "top.qcow2", 4 * MIB)
    qemu.io(path, ["write -P 1 0 1M", "write -c -P 2 1M 64k", "write -P 3 1088k 1M"])
    return path


def test_a_large_read_comes_in_pieces_unless_it_must_not(top: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with Chain(top) as chain, Server(chain, socket_path=path), nbd.Client(path) as client:
        client.go()
        client.read(0, 1)  # where it lies is known from here on
        client.send(client.request(nbd.READ, 0, MIB, cookie=7))
        for number in range(4):
            cookie, kind, payload = client.chunk()
            assert (cookie, kind) == (7, 1)
            assert int.from_bytes(payload[:8], "big") == number * PIECE
            assert payload[8:] == b"\1" * PIECE
        client.send(client.request(nbd.READ, 0, MIB, cookie=8, flags=nbd.DONT_FRAGMENT))
        cookie, _, payload = client.chunk()
        assert (cookie, payload[8:]) == (8, b"\1" * MIB)


@pytest.mark.parametrize("structured", [True, False])
def test_what_native_code_does_not_read_may_lie_between(
    structured: bool, top: Path, tmp_path: Path
) -> None:
    path, content = tmp_path / "s.sock", qemu.contents(top)
    with Chain(top) as chain, Server(chain, socket_path=path), nbd.Client(path) as client:
        client.go(structured=structured)
        assert client.read(0, len(content)) == content
        assert client.read(1000, 3 * MIB) == content[1000 : 1000 + 3 * MIB]


@pytest.mark.parametrize("flags", [0, nbd.FUA])
def test_a_large_write_may_begin_in_clusters_and_end_in_a_hole(
    flags: int, top: Path, tmp_path: Path
) -> None:
    path, content = tmp_path / "s.sock", bytearray(qemu.contents(top))
    data = random.Random(1).randbytes(3 * MIB)
    with Chain(top, writable=True) as chain, Server(chain, socket_path=path) as server:
        with nbd.Client(path) as client:
            client.go()
            for at, size in ((100, 700_000), (MIB // 2, 3 * MIB), (0, MIB)):
                client.read(at, 1)
                client.send(client.request(nbd.WRITE, at, size, flags=flags) + data[:size])
                assert client.chunk()[1] == 0
                content[at : at + size] = data[:size]
            client.send(client.request(nbd.WRITE, 3 * MIB, 2 * MIB) + data[: 2 * MIB])
            assert client.error()[0] == 28  # there is no room past the disk's end
            assert client.read(0, len(content)) == content
        assert server.statistics()["written_bytes"] == 700_000 + 4 * MIB
    assert qemu.contents(top) == content
    qemu.img("check", top)
