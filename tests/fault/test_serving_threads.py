"""Clients that write at the same time, and servers that are killed: what was flushed is there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hatchway.disk import Chain, Server
from hatchway.disk import server as serving
from tests.real import nbd, qemu

pytestmark = [
    pytest.mark.fault,
    pytest.mark.real,
    qemu.needs_qemu,
    pytest.mark.timeout(240),
]

MIB = 1 << 20
NO_HOLE = 2
NUM_CLIENTS = 4
SECTOR = 512
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"cluster_size": 65536},
    "small clusters": {"cluster_size": 512, "refcount_bits": 64},
    "subclusters": {"cluster_size": 16384, "extended_l2": "on"},
    "data file": {"cluster_size": 4096, "data_file": "data.bin"},
}
SERVE = """
import socket, sys
from hatchway.disk import Chain, Server
with Chain(sys.argv[1], writable=True) as chain, Server(chain, socket_path=sys.argv[2]):
    print("ready", flush=True)
    sys.stdin.read()
"""


def drawn() -> random.Random:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def make(folder: Path, kind: dict[str, Any], size: int, draw: random.Random) -> bytes:
    """An overlay over a raw file, and what is in it."""
    below = draw.randbytes(size // 2)
    base = qemu.raw(folder / "base.raw", below)
    if "data_file" in kind:
        kind = {**kind, "data_file": folder / kind["data_file"]}
    qemu.create(folder / "top.qcow2", size, base, **kind)
    return below + bytes(size - len(below))


class Writer:
    """A client with a part of the disk of its own, and what must be there."""

    def __init__(self, path: Path, start: int, content: bytearray, cluster: int, seed: int) -> None:
        self.path = path
        self.start = start
        self.content = content
        self.cluster = cluster
        self.draw = random.Random(seed)

    def run(self, num_turns: int) -> None:
        with nbd.Client(self.path) as client:
            client.go("", "base:allocation", structured=True)
            for _ in range(num_turns):
                self.turn(client)
            self.done(client, nbd.FLUSH)

    def turn(self, client: nbd.Client) -> None:
        at = self.draw.randrange(len(self.content))
        size = self.draw.randint(1, min(len(self.content) - at, 100_000))
        if self.draw.random() < 0.5:
            at, size = at // 4096 * 4096, -(-size // 4096) * 4096
        end = min(at + size, len(self.content))
        place = self.start + at, end - at
        does = self.draw.choice(
            ["write", "write", "write", "read", "read", "zero", "discard", "ask"]
        )
        if does == "write":
            data = self.draw.randbytes(1) * (end - at)
            client.send(client.request(nbd.WRITE, *place, flags=self.draw.randrange(2)) + data)
            assert client.chunk()[1] == 0
            self.content[at:end] = data
        elif does == "zero":
            self.done(client, nbd.WRITE_ZEROES, *place, flags=self.draw.choice([0, NO_HOLE]))
            self.content[at:end] = bytes(end - at)
        elif does == "discard":
            self.done(client, nbd.TRIM, *place)
            first, last = -(-at // self.cluster) * self.cluster, end // self.cluster * self.cluster
            if first < last:
                self.content[first:last] = bytes(last - first)
        elif does == "read":
            assert client.read(*place) == self.content[at:end]
        else:
            self.done(client, self.draw.choice([nbd.FLUSH, nbd.CACHE]), self.start, 4096)
            assert client.status(*place)

    def done(
        self, client: nbd.Client, kind: int, offset: int = 0, size: int = 0, *, flags: int = 0
    ) -> None:
        client.send(client.request(kind, offset, size, flags=flags))
        assert client.chunk()[1:] == (0, b"")


@pytest.mark.parametrize("kind", KINDS)
def test_clients_at_once_each_read_what_they_wrote_while_the_disk_is_resized(
    kind: str, tmp_path: Path
) -> None:
    draw = drawn()
    each = MIB // 2
    size = NUM_CLIENTS * each
    content = bytearray(make(tmp_path, KINDS[kind], size, draw))
    parts = [content[start : start + each] for start in range(0, size, each)]
    path = tmp_path / "s.sock"
    with (
        Chain(tmp_path / "top.qcow2", writable=True, cache_bytes=MIB // 4) as chain,
        Server(chain, socket_path=path, num_threads=3),
    ):
        writers = [
            Writer(path, number * each, part, KINDS[kind]["cluster_size"], draw.randrange(2**32))
            for number, part in enumerate(parts)
        ]
        is_over = threading.Event()

        def resize() -> None:
            sizes = random.Random(draw.randrange(2**32))
            while not is_over.wait(0.01):  # a pause between changes, not an order of events
                chain.resize(size + sizes.randrange(2048) * SECTOR)
                chain.flush()

        with ThreadPoolExecutor(NUM_CLIENTS + 1) as pool:
            resizing = pool.submit(resize)
            try:
                list(pool.map(lambda writer: writer.run(120), writers))
            finally:
                is_over.set()
            resizing.result()
        chain.resize(size)
        assert chain.read_at(0, size) == b"".join(parts)
    qemu.check(tmp_path / "top.qcow2")
    assert qemu.contents(tmp_path / "top.qcow2") == b"".join(parts)


class Killed:
    """A disk whose server is killed: what each of its sectors may hold then."""

    def __init__(self, folder: Path, content: bytes, draw: random.Random) -> None:
        self.folder = folder
        self.draw = draw
        self.flushed = bytearray(content)
        self.later: list[tuple[int, bytes]] = []

    def round(self, num_batches: int) -> None:
        path = self.folder / "s.sock"
        command = [sys.executable, "-c", SERVE, str(self.folder / "top.qcow2"), str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                with nbd.Client(path) as client:
                    client.go()
                    for _ in range(num_batches):
                        self.batch(client, None)
                    self.batch(client, process)
            finally:
                process.send_signal(signal.SIGKILL)

    def batch(self, client: nbd.Client, process: subprocess.Popen[bytes] | None) -> None:
        """Writes and a flush that are sent at once; a server is killed before one is answered."""
        num_writes = self.draw.randint(1, 12)
        for _ in range(num_writes):
            at = self.draw.randrange(len(self.flushed) // SECTOR) * SECTOR
            size = min(self.draw.randint(1, 200) * SECTOR, len(self.flushed) - at)
            data = self.draw.randbytes(SECTOR) * (size // SECTOR)
            if self.draw.random() < 0.2:
                data = bytes(size)
                client.send(client.request(nbd.WRITE_ZEROES, at, size))
            else:
                client.send(client.request(nbd.WRITE, at, size) + data)
            # Writes that overlap come one after the other: their order would be the server's.
            self.later.append((at, data))
            assert client.chunk()[1] == 0
        client.send(client.request(nbd.FLUSH))
        if process is not None:
            client.socket.settimeout(self.draw.choice([0.0001, 0.002, 0.02]))
            try:
                client.chunk()
            except (TimeoutError, EOFError):
                os.kill(process.pid, signal.SIGKILL)
                return
        else:
            assert client.chunk()[1] == 0
        for at, data in self.later:
            self.flushed[at : at + len(data)] = data
        self.later.clear()

    def check(self) -> None:
        """Each sector is what was flushed, or what was written later."""
        top = self.folder / "top.qcow2"
        done = subprocess.run(["qemu-img", "check", str(top)], capture_output=True, check=False)
        assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: leaks only
        found = qemu.contents(top)
        for at in range(0, len(found), SECTOR):
            sector = found[at : at + SECTOR]
            assert sector == self.flushed[at : at + SECTOR] or any(
                start <= at and sector == data[at - start : at - start + SECTOR]
                for start, data in self.later
            ), f"the sector at {at:#x}"
        self.flushed[:] = found
        self.later.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_flushed_is_there_when_a_server_was_killed(kind: str, tmp_path: Path) -> None:
    draw = drawn()
    killed = Killed(tmp_path, make(tmp_path, KINDS[kind], 4 * MIB, draw), draw)
    for _ in range(4):
        killed.round(draw.randrange(6))
        killed.check()
    with Chain(tmp_path / "top.qcow2", writable=True) as chain:
        assert chain.read_at(0, 4 * MIB) == killed.flushed


def compressed(folder: Path, num_clusters: int) -> tuple[Path, bytes]:
    """An image whose reads are left to the pool, and what it holds."""
    content = b"".join(bytes([rank]) * 65536 for rank in range(num_clusters))
    base, top = qemu.raw(folder / "base.raw", content), folder / "top.qcow2"
    qemu.img("convert", "-c", "-O", "qcow2", base, top)
    return top, content


def test_a_client_that_takes_no_answers_does_not_keep_others_waiting(tmp_path: Path) -> None:
    top, content = compressed(tmp_path, 64)
    path = tmp_path / "s.sock"
    with (
        Chain(top) as chain,
        Server(chain, socket_path=path, num_threads=2) as server,
        nbd.Client(path) as silent,
        nbd.Client(path) as other,
    ):
        silent.go()
        other.go()
        for cookie in range(20):
            silent.send(silent.request(nbd.READ, 0, MIB, cookie=cookie))
        for at in range(0, 4 * MIB, 65536):
            assert other.read(at, 65536) == content[at : at + 65536]
        assert server.statistics()["num_handed_on"] >= 64
        # They are there when they are taken.
        for _ in range(20):
            assert silent.chunk()[2][8:] == content[:MIB]


def asked_and_not_taken(path: Path) -> nbd.Client:
    """A client that asked for three answers of 1 MiB, of which the first one has begun."""
    client = nbd.Client(path)
    client.go()
    for cookie in range(3):
        client.send(client.request(nbd.READ, 0, MIB, cookie=cookie, flags=nbd.DONT_FRAGMENT))
    client.take(20)
    return client


def test_a_client_that_takes_no_answers_leaves_room_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_MOST_BYTES", MIB)
    top, content = compressed(tmp_path, 32)
    path = tmp_path / "s.sock"
    with (
        Chain(top) as chain,
        Server(chain, socket_path=path),
        asked_and_not_taken(path) as silent,
        nbd.Client(path) as other,
    ):
        other.go()
        for at in range(0, 2 * MIB, MIB // 4):
            assert other.read(at, MIB // 4) == content[at : at + MIB // 4]
        # They are there when they are taken.
        assert silent.take(8 + MIB)[8:] == content[:MIB]
        for _ in range(2):
            assert silent.chunk()[2][8:] == content[:MIB]


def test_a_client_that_takes_no_answers_is_ended_when_there_is_no_room_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_MOST_BYTES", MIB)
    monkeypatch.setattr(serving, "_STUCK_S", 0.1)
    content = drawn().randbytes(2 * MIB)
    (tmp_path / "one.raw").write_bytes(content)
    path = tmp_path / "s.sock"
    with (
        Chain(tmp_path / "one.raw") as chain,
        Server(chain, socket_path=path),
        asked_and_not_taken(path) as silent,
        nbd.Client(path) as other,
    ):
        other.go()
        assert other.read(MIB, MIB, nbd.DONT_FRAGMENT) == content[MIB:]
        with pytest.raises((EOFError, ConnectionError)):
            silent.take(3 * MIB)
