"""What is served over NBD is the chain, to QEMU's tools, to libnbd's and to plain clients."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hatchway.disk import Chain, Server
from tests.real import nbd, qemu
from tests.real.test_images import KINDS, WRITES

pytestmark = [pytest.mark.real, qemu.needs_qemu]

MIB = 1024 * 1024


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """An overlay with subclusters over compressed clusters."""
    base = qemu.create(tmp_path / "base.qcow2", 8 * MIB)
    qemu.io(base, ["write -P 1 0 3M", "write -c -P 3 5M 64k", "write -z 6M 1M"])
    path = qemu.create(tmp_path / "top.qcow2", None, base, extended_l2="on")
    qemu.io(path, ["write -P 2 1M 100k", "write -z 2M 64k"])
    return path


@pytest.fixture
def served(top: Path, tmp_path: Path) -> Iterator[Server]:
    with Chain(top) as chain, Server(chain, socket_path=tmp_path / "s.sock") as server:
        yield server


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, check=False, timeout=50, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_qemu_finds_what_is_in_the_image(kind: str, tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", 10 * MIB, **KINDS[kind])
    qemu.io(path, WRITES)
    if "preallocation" not in KINDS[kind]:
        qemu.io(path, ["write -c -P 6 8M 2M"])
    with Chain(path) as chain, Server(chain, socket_path=tmp_path / "s.sock") as server:
        qemu.img("compare", "-f", "raw", "-F", "qcow2", server.uris[0], path)


def test_a_raw_image_whose_size_is_odd(tmp_path: Path) -> None:
    path = qemu.raw(tmp_path / "one.raw", random.Random(1).randbytes(70_001))
    with Chain(path) as chain, Server(chain, socket_path=tmp_path / "s.sock") as server:
        qemu.img("compare", "-f", "raw", "-F", "raw", server.uris[0], path)


@nbd.needs_libnbd
def test_nbdcopy_takes_all_of_it_over_several_connections(
    served: Server, top: Path, tmp_path: Path
) -> None:
    target = tmp_path / "copy.raw"
    run("nbdcopy", "--connections=4", "--request-size=65536", served.uris[0], str(target))
    assert target.read_bytes() == qemu.contents(top)
    assert served.statistics()["num_connections"] >= 2


@pytest.fixture
def stock(top: Path, tmp_path: Path) -> Iterator[str]:
    """The same chain, served by QEMU."""
    path, noted = tmp_path / "stock.sock", tmp_path / "pid"
    run(
        "qemu-nbd",
        "--fork",
        "--pid-file",
        str(noted),
        "--read-only",
        "--persistent",
        "--allocation-depth",
        "--socket",
        str(path),
        str(top),
    )
    yield f"nbd+unix:///?socket={path}"
    os.kill(int(noted.read_text()), signal.SIGTERM)


@nbd.needs_libnbd
def test_block_status_is_that_of_qemu(served: Server, stock: str) -> None:
    def extents(uri: str, context: str) -> list[tuple[int, int, int]]:
        found = json.loads(run("nbdinfo", "--json", f"--map={context}", uri))
        pieces = [(one["offset"], one["offset"] + one["length"], one["type"]) for one in found]
        joined = pieces[:1]
        for start, end, state in pieces[1:]:
            if joined[-1][2] == state:
                joined[-1] = joined[-1][0], end, state
            else:
                joined.append((start, end, state))
        return joined

    depths = extents(served.uris[0], "qemu:allocation-depth")
    assert depths == extents(stock, "qemu:allocation-depth")
    assert {depth for _, _, depth in depths} == {0, 1, 2}
    # QEMU calls some zeros allocated.
    ours, theirs = (
        [(start, end, state & 2) for start, end, state in extents(uri, "base:allocation")]
        for uri in (served.uris[0], stock)
    )
    assert ours == theirs


@nbd.needs_libnbd
def test_several_exports_are_listed_and_served(tmp_path: Path) -> None:
    paths = {name: qemu.create(tmp_path / f"{name}.qcow2", MIB) for name in ("a", "b", "c d")}
    for number, path in enumerate(paths.values()):
        qemu.io(path, [f"write -P {number + 1} 0 1M"])
    chains = {name: Chain(path) for name, path in paths.items()}
    with Server(chains, socket_path=tmp_path / "s.sock", address=("127.0.0.1", 0)) as server:
        unix, tcp = server.uris[:3], server.uris[3:]
        listed = json.loads(run("nbdinfo", "--json", "--list", unix[0]))
        assert [one["export-name"] for one in listed["exports"]] == list(paths)
        for uris in (unix, tcp):
            for uri, path in zip(uris, paths.values(), strict=True):
                qemu.img("compare", "-f", "raw", "-F", "qcow2", uri, path)
        with nbd.Client(tmp_path / "s.sock") as client:
            client.greet()
            ((kind, message),) = client.option(nbd.GO, nbd.counted("d") + bytes(2))
            assert (kind, message) == (0x80000006, b"there is no such export")
    for chain in chains.values():
        chain.close()


@pytest.mark.parametrize("structured", [True, False])
def test_requests_in_flight_are_all_answered_once(
    served: Server, top: Path, tmp_path: Path, structured: bool
) -> None:
    content = qemu.contents(top)
    place = random.Random(3)
    wanted = {
        cookie: (offset := place.randrange(len(content)), place.randrange(len(content) - offset))
        for cookie in range(100)
    }
    with nbd.Client(tmp_path / "s.sock") as client:
        client.go(structured=structured)
        requests = [
            client.request(nbd.READ, offset, min(length, 100_000), cookie=cookie)
            for cookie, (offset, length) in wanted.items()
        ]
        sending = threading.Thread(target=lambda: client.send(b"".join(requests)))
        sending.start()
        while wanted:
            if structured:
                cookie, kind, payload = client.chunk()
                offset, length = wanted.pop(cookie)
                data = payload[8:]
                assert kind == 1
            else:
                magic_error_cookie = nbd.SIMPLE.unpack(client.take(16))
                cookie = magic_error_cookie[2]
                offset, length = wanted.pop(cookie)
                data = client.take(min(length, 100_000))
            assert data == content[offset : offset + min(length, 100_000)]
        sending.join()


def test_requests_that_make_no_sense_are_refused_and_the_next_is_answered(
    served: Server, top: Path, tmp_path: Path
) -> None:
    with nbd.Client(tmp_path / "s.sock") as client:
        client.go("", "base:allocation")
        past = client.request(nbd.READ, client.size - 10, 11)
        for said, number in [
            (past, errno.EINVAL),
            (client.request(nbd.READ, 2**64 - 1, 2), errno.EINVAL),
            (client.request(nbd.READ, 0, 33 * MIB), errno.EINVAL),
            (client.request(nbd.WRITE, 0, 4) + b"data", errno.EPERM),
            (client.request(nbd.TRIM, 0, 512), errno.EPERM),
            (client.request(nbd.WRITE_ZEROES, 0, 512), errno.EPERM),
            (client.request(99, 0, 512), errno.EINVAL),
            (client.request(nbd.BLOCK_STATUS, 0, 0), errno.EINVAL),
        ]:
            client.send(said)
            assert client.error()[0] == number
        assert client.read(0, 4) == bytes([1] * 4)
        client.send(client.request(nbd.FLUSH))
        assert client.chunk()[1] == 0
        client.send(client.request(nbd.CACHE, 0, MIB))
        assert client.chunk()[1] == 0
        assert client.status(0, MIB, flags=8) == [(MIB, 0)]


def test_what_is_not_in_the_page_cache_is_left_to_the_pool(tmp_path: Path) -> None:
    path = qemu.raw(tmp_path / "one.raw", random.Random(4).randbytes(4 * MIB))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with (
        Chain(path) as chain,
        Server(chain, socket_path=tmp_path / "s.sock") as server,
        nbd.Client(tmp_path / "s.sock") as client,
    ):
        client.go()
        found = client.read(MIB, 4096)
        first = server.statistics()["num_handed_on"]
        assert first == 1
        assert client.read(MIB, 4096) == found
        assert server.statistics()["num_handed_on"] == first
    assert found == path.read_bytes()[MIB : MIB + 4096]


def test_a_damaged_region_is_an_error_and_others_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = qemu.create(tmp_path / "one.qcow2", MIB, cluster_size=512)
    qemu.io(path, ["write -P 1 0 1M"])
    with Chain(path) as chain:
        l1_offset, _ = chain.images[0].l1_at
    with path.open("r+b") as file:
        file.seek(l1_offset)
        file.write((1 << 40).to_bytes(8, "big"))
    with Chain(path) as chain, Server(chain, socket_path=tmp_path / "s.sock") as server:
        with nbd.Client(tmp_path / "s.sock") as client, caplog.at_level(logging.WARNING):
            client.go("", "base:allocation")
            for kind in (nbd.READ, nbd.BLOCK_STATUS):
                client.send(client.request(kind, 0, 512))
                assert client.error() == (errno.EIO, os.strerror(errno.EIO))
            assert client.read(MIB // 2, 512) == bytes([1] * 512)
        assert "points to 0x10000000000, past the end of the file" in caplog.text
        assert server.statistics()["num_requests"] == 3


def test_files_are_held_as_long_as_they_are_served(served: Server, top: Path) -> None:
    with pytest.raises(AssertionError, match='Failed to get "write" lock'):
        qemu.io(top.with_name("base.qcow2"), ["write 0 512"])


def test_clients_that_are_connected_do_not_keep_a_server_from_ending(
    top: Path, tmp_path: Path
) -> None:
    path = tmp_path / "s.sock"
    with Chain(top) as chain:
        server = Server(chain, socket_path=path)
        idle, greeting, greedy = (nbd.Client(path) for _ in range(3))
        idle.go()
        greedy.go()
        # More than the socket holds, and nobody takes it.
        greedy.send(greedy.request(nbd.READ, 0, 8 * MIB) * 4)
        server.close(patience_s=0.2)
        assert not path.exists()
        for client in (idle, greeting, greedy):
            client.socket.close()


def test_requests_that_have_come_are_answered_before_the_end(top: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with Chain(top) as chain, Server(chain, socket_path=path) as server, nbd.Client(path) as client:
        client.go()
        client.send(client.request(nbd.READ, 0, 4096) * 8)
        first = client.chunk()
        server.close()
        assert [client.chunk() for _ in range(7)] == [first] * 7
        with pytest.raises(EOFError):
            client.take(1)


def test_a_name_that_is_taken_is_not_taken_away(served: Server, tmp_path: Path) -> None:
    other = qemu.raw(tmp_path / "one.raw", bytes(512))
    with Chain(other) as chain:
        with pytest.raises(OSError, match="another server listens there"):
            Server(chain, socket_path=tmp_path / "s.sock")
        with pytest.raises(OSError, match="this is no socket"):
            Server(chain, socket_path=other)
        with pytest.raises(OSError, match="may have 107 bytes"):
            Server(chain, socket_path=tmp_path / ("x" * 108))
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(tmp_path / "stale.sock"))
        left.close()
        with Server(chain, socket_path=tmp_path / "stale.sock") as server:
            qemu.img("compare", "-f", "raw", "-F", "raw", server.uris[0], other)


def test_a_socket_is_for_its_user_only(served: Server, tmp_path: Path) -> None:
    assert (tmp_path / "s.sock").stat().st_mode & 0o777 == 0o600


def test_arguments_that_make_no_sense_are_named(top: Path) -> None:
    with Chain(top) as chain:
        with pytest.raises(ValueError, match="at least one chain"):
            Server({}, address=("127.0.0.1", 0))
        with pytest.raises(ValueError, match="where to listen"):
            Server(chain)
        with pytest.raises(ValueError, match="num_threads must be at least 1, not 0"):
            Server(chain, address=("127.0.0.1", 0), num_threads=0)
        with pytest.raises(ValueError, match="max_connections must be at least 1, not 0"):
            Server(chain, address=("127.0.0.1", 0), max_connections=0)


def test_a_client_beyond_the_limit_is_told_so(top: Path, tmp_path: Path) -> None:
    path = tmp_path / "limited.sock"
    with (
        Chain(top) as chain,
        Server(chain, socket_path=path, max_connections=2) as server,
        nbd.Client(path) as first,
        nbd.Client(path) as second,
    ):
        first.go()
        second.go()
        with nbd.Client(path) as third:
            third.greet()
            ((kind, message),) = third.option(nbd.GO, nbd.counted("") + bytes(2))
        assert kind == nbd.POLICY
        assert b"has 2 connections already" in message
        assert first.read(0, 1) == second.read(0, 1)
        counts = server.statistics()
        assert [counts[name] for name in ("num_clients", "num_refused")] == [2, 1]


def test_a_dead_host_at_the_other_end_is_noticed(top: Path) -> None:
    with Chain(top) as chain, Server(chain, address=("127.0.0.1", 0)) as server:
        _, _, port = server.uris[0].rstrip("/").rpartition(":")
        with socket.create_connection(("127.0.0.1", int(port))) as client:
            client.recv(1)
            with connected_to(client.getsockname()) as accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000


def connected_to(address: tuple[str, int]) -> socket.socket:
    """A socket of this process, once more, whose other end has an address."""
    for name in os.listdir("/proc/self/fd"):
        path = Path("/proc/self/fd", name)
        if path.is_symlink() and os.readlink(path).startswith("socket:"):
            one = socket.socket(fileno=os.dup(int(name)))
            with contextlib.suppress(OSError):
                if one.getpeername() == address:
                    return one
            one.close()
    raise AssertionError(f"nothing is connected to {address}")


def test_a_fork_of_the_server_ends_by_itself(served: Server, tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        served.__exit__()
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    with nbd.Client(tmp_path / "s.sock") as client:
        client.go()
        assert client.read(0, 1) == b"\x01"


def test_a_signal_ends_the_command_whichever_thread_it_finds(top: Path, tmp_path: Path) -> None:
    """Threads that have nothing to do are there to take it, and must not."""
    path = tmp_path / "s.sock"
    command = [sys.executable, "-m", "hatchway.cli", "disk", "serve", str(top)]
    for number in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(
            [*command, "--socket", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == f"serving nbd+unix:///?socket={path}\n".encode()
            for thread in Path(f"/proc/{server.pid}/task").iterdir():
                masked = (thread / "status").read_text().split("SigBlk:")[1].split()[0]
                takes_it = not int(masked, 16) >> number - 1 & 1
                assert takes_it == (thread.name == str(server.pid))
            server.send_signal(number)
            assert server.wait(20) == 0
        assert not path.exists()
