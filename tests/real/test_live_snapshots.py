"""A chain that is open for writing goes on in an overlay; what was written before stays below."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hatchway.disk import Chain, ImageError, LockedImageError, Server, kernel
from hatchway.disk.active import ActiveLayer
from hatchway.disk.index import sidecar_of
from tests.fault.test_serving_threads import KINDS
from tests.real import nbd, qemu
from tests.real.indexed import let_time_pass, num_indexed

pytestmark = [pytest.mark.real, qemu.needs_qemu, pytest.mark.timeout(240)]

MIB = 1 << 20
EACH = MIB // 4
NUM_CLIENTS = 3
NUM_SNAPSHOTS = 5
TURNS_BETWEEN = 12


class Client:
    """Writes to a part of the disk of its own, one request at a time, and keeps count.

    Attributes:
        begun: What was asked for, in order: where, how many bytes, and which one.
        num_done: How many of those were answered.
        content: What its part holds when all of them are done.
    """

    def __init__(self, start: int, content: bytes, cluster: int, seed: int) -> None:
        self.start, self.cluster = start, cluster
        self.begun: list[tuple[int, int, int]] = []
        self.num_done = 0
        self.first = bytes(content)
        self.content = bytearray(content)
        self.draw = random.Random(seed)

    def turn(self, client: nbd.Client) -> None:
        at = self.draw.randrange(EACH)
        end = min(EACH, at + self.draw.randint(1, 3 * self.cluster))
        value, flags = self.draw.randrange(256), self.draw.randrange(2)
        kind = self.draw.choice([nbd.WRITE, nbd.WRITE, nbd.WRITE_ZEROES, nbd.TRIM, nbd.FLUSH])
        if kind == nbd.FLUSH:
            at = end = 0
        elif kind == nbd.TRIM:
            at, end = -(-at // self.cluster) * self.cluster, end // self.cluster * self.cluster
            end = max(at, end)
        if kind != nbd.WRITE:
            value = 0
        self.begun.append((at, end, value))
        where = (0, 0) if kind == nbd.FLUSH else (self.start + at, end - at)
        data = bytes([value]) * (end - at) if kind == nbd.WRITE else b""
        client.send(client.request(kind, *where, flags=0 if kind == nbd.FLUSH else flags) + data)
        assert client.chunk()[1:] == (0, b"")
        self.content[at:end] = bytes([value]) * (end - at)
        self.num_done = len(self.begun)
        at = self.draw.randrange(EACH)
        end = min(EACH, at + self.draw.randint(1, 100_000))
        assert client.read(self.start + at, end - at) == self.content[at:end]
        assert client.status(self.start, EACH)

    def had(self, found: bytes, least: int, most: int) -> bool:
        """Whether these bytes are what was there after ``least`` to ``most`` of its requests."""
        content = bytearray(self.first)
        for number, (at, end, value) in enumerate([(0, 0, 0), *self.begun[:most]]):
            content[at:end] = bytes([value]) * (end - at)
            if number >= least and found == content:
                return True
        return False


def serve_and_write(
    chain: Chain, path: Path, clients: list[Client], meanwhile: Callable[[int], None]
) -> None:
    """Call ``meanwhile`` again and again, each time when every client has got on."""
    is_over, moved = threading.Event(), threading.Condition()

    def run(client: Client) -> None:
        with nbd.Client(path) as connected:
            connected.go("", "base:allocation")
            while not is_over.is_set():
                client.turn(connected)
                with moved:
                    moved.notify_all()

    with (
        Server(chain, socket_path=path, num_threads=3),
        ThreadPoolExecutor(len(clients)) as pool,
    ):
        running = [pool.submit(run, client) for client in clients]
        try:
            for number in range(NUM_SNAPSHOTS + 1):
                wanted = [client.num_done + TURNS_BETWEEN for client in clients]
                with moved:
                    assert moved.wait_for(
                        lambda wanted=wanted: (
                            any(one.done() for one in running)
                            or all(
                                client.num_done >= least
                                for client, least in zip(clients, wanted, strict=True)
                            )
                        ),
                        timeout=60,
                    )
                meanwhile(number)
        finally:
            is_over.set()
        for one in running:
            one.result()


@pytest.mark.parametrize("kind", KINDS)
def test_clients_of_a_server_go_on_and_each_layer_holds_what_was_written_before(
    kind: str, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    size = NUM_CLIENTS * EACH
    below = draw.randbytes(size // 2)
    base = qemu.raw(tmp_path / "base.raw", below)
    made = dict(KINDS[kind])
    if "data_file" in made:
        made["data_file"] = tmp_path / made["data_file"]
    tops = [qemu.create(tmp_path / "0.qcow2", size, base, **made)]
    content = below + bytes(size - len(below))
    clients = [
        Client(start, content[start : start + EACH], made["cluster_size"], draw.randrange(2**32))
        for start in range(0, size, EACH)
    ]
    counts: list[list[tuple[int, int]]] = []
    with Chain(tops[0], writable=True, cache_bytes=MIB // 4) as chain:

        def snapshot(number: int) -> None:
            if number == NUM_SNAPSHOTS:
                return
            before = [client.num_done for client in clients]
            path = tmp_path / f"{number + 1}.qcow2"
            assert chain.snapshot(path, index=number == 1 or None).path == path
            counts.append([(a, len(b.begun)) for a, b in zip(before, clients, strict=True)])
            tops.append(path)

        serve_and_write(chain, tmp_path / "s.sock", clients, snapshot)
        assert [image.path for image in chain.images] == [base, *tops]
        last = b"".join(client.content for client in clients)
        assert chain.read_at(0, size) == last
    for top, done in zip(tops[:-1], counts, strict=True):
        qemu.check(top)
        with Chain(top) as frozen:
            found = frozen.read_at(0, size)
        for client, (least, most) in zip(clients, done, strict=True):
            assert client.had(found[client.start :][:EACH], least, most), f"{top}, seed {seed}"
    qemu.check(tops[-1])
    assert qemu.contents(tops[-1]) == last
    assert qemu.img("compare", tops[2], tops[2]) == "Images are identical.\n"
    assert sidecar_of(tops[-2]).exists()
    assert not sidecar_of(tops[0]).exists()


@pytest.mark.parametrize("is_native", [True, False], ids=["native", "python"])
def test_leaves_that_are_known_are_kept(
    is_native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_native:
        monkeypatch.setattr(kernel, "_MODULE", None)
    top = qemu.create(tmp_path / "0.qcow2", 64 * MIB)
    with Chain(top, writable=True) as chain:
        chain.write_at(0, b"\1" * 100_000)
        chain.write_at(40 * MIB, b"\2" * 100_000)
        assert chain.read_at(0, 1) == b"\1"
        extents = list(chain.map())
        known = chain.cached_bytes
        made: list[int] = []
        make = chain._leaves._make
        monkeypatch.setattr(chain._leaves, "_make", lambda rank: made.append(rank) or make(rank))
        chain.snapshot(tmp_path / "1.qcow2")
        assert list(chain.map()) == extents
        assert chain.cached_bytes == known
        assert made == []
        going = chain.map()
        assert next(going) == extents[0]
        chain.snapshot(tmp_path / "2.qcow2")
        chain.write_at(40 * MIB + 65536, b"\3" * 65536)
        assert [extent.layer for extent in going] == [None, 0, 2, None]
    assert qemu.contents(tmp_path / "1.qcow2")[40 * MIB + 65536 :][:34464] == b"\2" * 34464
    assert qemu.contents(tmp_path / "2.qcow2")[40 * MIB + 65536 :][:65536] == b"\3" * 65536


@pytest.mark.skipif(not kernel.is_built(), reason="no compiled kernels here")
def test_nothing_is_written_in_place_while_the_old_image_is_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = qemu.create(tmp_path / "0.qcow2", MIB)
    tried: list[bool] = []

    def finish(self: ActiveLayer, *, also_data: bool = False) -> None:
        real(self, also_data=also_data)
        tried.append(chain._leaves.overwrite(0, b"no"))

    real = ActiveLayer.finish
    with Chain(top, writable=True) as chain:
        chain.write_at(0, b"one")
        assert chain.read_at(0, 3) == b"one"
        assert chain._leaves.overwrite(0, b"two")
        with monkeypatch.context() as patched:
            patched.setattr(ActiveLayer, "finish", finish)
            chain.snapshot(tmp_path / "1.qcow2")
        assert tried == [False]
        assert not chain._leaves.overwrite(0, b"no")
        chain.write_at(1, b"and on")
        assert chain._leaves.overwrite(0, b"t")
    assert qemu.contents(top)[:8] == b"two" + bytes(5)
    assert qemu.contents(tmp_path / "1.qcow2")[:8] == b"tand on" + bytes(1)


@pytest.mark.skipif(not kernel.is_built(), reason="no compiled kernels here")
def test_what_belongs_to_an_internal_snapshot_is_below_then(tmp_path: Path) -> None:
    top = qemu.create(tmp_path / "0.qcow2", MIB)
    qemu.io(top, ["write -P 1 0 64k"])
    qemu.img("snapshot", "-c", "kept", top)
    with Chain(top, writable=True) as chain:
        chain.write_at(0, b"two")
        assert chain.read_at(0, 3) == b"two"
        assert not chain._leaves.overwrite(0, b"no")
        chain.snapshot(tmp_path / "1.qcow2")
        chain.write_at(0, b"3")
        assert chain.read_at(0, 3) == b"3wo"
        assert chain._leaves.overwrite(0, b"4")
    qemu.check(top)
    assert qemu.contents(top)[:4] == b"two\1"
    assert qemu.contents(top, "-l", "snapshot.name=kept")[:4] == b"\1" * 4


def test_a_disk_that_was_resized_and_whose_tables_moved_is_read_after_it_is_frozen(
    tmp_path: Path,
) -> None:
    top = qemu.create(tmp_path / "0.qcow2", 64 * 1024, cluster_size=512)
    content = random.Random(5).randbytes(2 * MIB)
    with Chain(top, writable=True) as chain:
        chain.write_at(0, content[: 64 * 1024])
        chain.resize(2 * MIB)  # a larger L1 table, elsewhere in the file
        chain.write_at(0, content)
        chain.snapshot(tmp_path / "1.qcow2")
        chain._leaves.drop(0, 1 << 32)
        assert chain.read_at(0, chain.size) == content
        chain.write_at(100, b"new")
        chain.resize(3 * MIB)
        assert chain.read_at(0, 200) == content[:100] + b"new" + content[103:200]
        assert chain.read_at(2 * MIB, MIB) == bytes(MIB)
    assert qemu.contents(top) == content
    qemu.check(tmp_path / "1.qcow2")


def test_files_are_locked_as_by_qemu(tmp_path: Path) -> None:
    old, new = qemu.create(tmp_path / "0.qcow2", MIB), tmp_path / "1.qcow2"

    def said(*arguments: object) -> str:
        command = ["qemu-io", "-f", "qcow2", *map(str, arguments)]
        done = subprocess.run(command, check=False, capture_output=True, timeout=50)
        return (done.stdout + done.stderr).decode()

    with Chain(old, writable=True) as chain:
        assert "lock" in said("-r", "-c", "read 0 512", old)
        chain.snapshot(new)
        assert 'Failed to get "write" lock' in said("-c", "write 0 512", old)
        assert "read 512/512" in said("-r", "-c", "read 0 512", old)
        assert "lock" in said("-r", "-c", "read 0 512", new)
        with Chain(old) as other:
            assert other.read_at(0, 512) == bytes(512)
        with pytest.raises(LockedImageError):
            Chain(new)
        with pytest.raises(LockedImageError):
            Chain(old, writable=True)
        branch = qemu.create(tmp_path / "branch.qcow2", MIB, old)
        with Chain(branch, writable=True) as other:
            other.write_at(0, b"x")
    assert "wrote 512/512" in said("-c", "write 0 512", new)
    with Chain(new, writable=True, lock=False) as chain:
        chain.snapshot(tmp_path / "2.qcow2")
        assert "wrote 512/512" in said("-c", "write 0 512", new)


def test_a_snapshot_that_is_refused_leaves_the_chain_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = qemu.create(tmp_path / "0.qcow2", 4 * MIB, cluster_size=65536)
    (tmp_path / "there").write_bytes(b"kept")
    with Chain(top) as chain, pytest.raises(ValueError, match="writable=True"):
        chain.snapshot(tmp_path / "1.qcow2")
    with Chain(top, writable=True) as chain:
        chain.write_at(0, b"one")
        with pytest.raises(ImageError, match="is there already"):
            chain.snapshot(tmp_path / "there")
        with pytest.raises(ImageError, match="cannot be made"):
            chain.snapshot(tmp_path / "no" / "directory")
        with pytest.raises(ValueError, match="pieces of 512 bytes"):
            chain.snapshot(tmp_path / "1.qcow2", cluster_size=512)
        with pytest.raises(ValueError, match="cluster_size"):
            chain.snapshot(tmp_path / "1.qcow2", cluster_size=1000)
        if not (child := os.fork()):
            with contextlib.suppress(ValueError):
                chain.snapshot(tmp_path / "child.qcow2")
            os._exit(0)
        os.waitpid(child, 0)
        assert [image.path for image in chain.images] == [top]
        chain.write_at(1, b"two")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["0.qcow2", "there"]
    assert (tmp_path / "there").read_bytes() == b"kept"
    with pytest.raises(ValueError, match="closed"):
        chain.snapshot(tmp_path / "1.qcow2")
    assert qemu.contents(top)[:4] == b"otwo"


def test_the_index_is_carried_forward_by_an_open_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_time_pass(monkeypatch)
    top = qemu.create(tmp_path / "0.qcow2", 64 * MIB)
    with Chain(top, writable=True) as chain:
        for number in range(1, 9):
            chain.write_at(number * MIB, bytes([number]) * MIB)
            done = chain.snapshot(tmp_path / f"{number}.qcow2", index=number == 1 or None)
            assert done.built is not None
            assert (done.built.num_layers, done.built.num_reused) == (number, number - 1)
        sidecar_of(tmp_path / "7.qcow2").unlink()
        sidecar_of(tmp_path / "6.qcow2").unlink()
        done = chain.snapshot(tmp_path / "9.qcow2", index=True)
        assert done.built is not None
        # Without it the snapshot is there all the same.
        monkeypatch.setattr(
            "hatchway.disk.index.building.lock_to_append",
            lambda fd: (_ for _ in ()).throw(OSError(28, "no space")),
        )
        done = chain.snapshot(tmp_path / "10.qcow2")
        assert done.built is None
        assert "no space" in str(done.index_error)
        chain.write_at(0, b"z")
    assert num_indexed(tmp_path / "9.qcow2") == 9
    assert qemu.contents(tmp_path / "10.qcow2")[:1] == b"z"
