"""What a server holds is bounded, and goes back to the system when its clients want nothing."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real import nbd, qemu
from tests.real.gates import until

pytestmark = [pytest.mark.real, qemu.needs_qemu]

MIB = 1 << 20


@contextlib.contextmanager
def served(top: Path, socket_path: Path, *options: str) -> Iterator[int]:
    """The process's number."""
    command = [sys.executable, "-m", "hatchway.cli", "disk", "serve", *options, str(top)]
    with subprocess.Popen(
        [*command, "--socket", str(socket_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline()
        try:
            yield server.pid
        finally:
            server.terminate()


def anonymous_bytes(pid: int) -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


def test_clients_that_came_and_went_leave_nothing(tmp_path: Path) -> None:
    top, path = qemu.create(tmp_path / "one.qcow2", 64 * MIB), tmp_path / "s.sock"
    with served(top, path) as pid:
        with nbd.Client(path) as client:
            client.go()
            client.read(0, 4096)
            before = anonymous_bytes(pid)
        with contextlib.ExitStack() as opened:
            many = [opened.enter_context(nbd.Client(path)) for _ in range(30)]
            for client in many:
                client.go()
                client.read(0, MIB)
            assert anonymous_bytes(pid) > before
        assert until(lambda: anonymous_bytes(pid) < before + 2 * MIB)


def test_a_client_that_wants_nothing_any_more_holds_little(tmp_path: Path) -> None:
    top, path = qemu.create(tmp_path / "one.qcow2", 64 * MIB), tmp_path / "s.sock"
    with served(top, path, "--writable") as pid, nbd.Client(path) as client:
        client.go()
        client.read(0, 4096)
        before = anonymous_bytes(pid)
        client.read(0, 32 * MIB)
        client.send(client.request(nbd.WRITE, 0, 8 * MIB) + bytes(8 * MIB))
        assert client.chunk()[1] == 0
        assert until(lambda: anonymous_bytes(pid) < before + 8 * MIB)
        assert client.read(0, 2 * MIB) == bytes(2 * MIB)


def test_only_what_serving_needs_is_imported(tmp_path: Path) -> None:
    top = qemu.create(tmp_path / "one.qcow2", MIB)
    code = """
import sys
from hatchway.cli import main
from hatchway.disk import Chain, Server
top, path = sys.argv[1:]
assert main(["disk", "serve", path, "--socket", path]) == 1  # there is no such image
with Chain(top) as chain, Server(chain, socket_path=path):
    print(*sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(top), str(tmp_path / "s.sock")],
        check=True,
        capture_output=True,
        text=True,
    )
    imported = set(done.stdout.split())
    assert "hatchway.cli.disk.serve" in imported
    needless = {"numpy", "json", "shutil", "socket", "zlib", "hatchway.disk.index.stored"}
    assert not imported & needless
