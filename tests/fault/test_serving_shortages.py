"""A server without threads or memory to spare loses a client, or says so; the process goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hatchway.disk import Chain, Server
from tests.real import nbd

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]

PRELUDE = """
import contextlib, gc, os, resource, sys
from pathlib import Path
from hatchway.disk import Chain, Server
from tests.real import nbd

def leave(num_bytes):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft = pages * os.sysconf("SC_PAGE_SIZE") + num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (soft, resource.RLIM_INFINITY))

def lift():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def served(path):
    with nbd.Client(path) as client:
        client.go()
        return client.read(0, 3) == b"111"

folder = Path(sys.argv[1])
(folder / "one.raw").write_bytes(b"1" * (4 << 20))
chain = Chain(folder / "one.raw")
path = folder / "s.sock"
"""
NO_THREADS = """
# A thread's stack takes 8 MiB, and there are to be 64.
leave(40 << 20)
try:
    Server(chain, socket_path=path, num_threads=64)
except RuntimeError as error:
    print(error)
lift()
with Server(chain, socket_path=path):
    print(served(path))
"""
NO_CLIENT = """
with Server(chain, socket_path=path) as server, contextlib.ExitStack() as opened:
    for spare in (0, 200 << 10, 1 << 20):
        gc.collect()
        leave(spare)
        with contextlib.suppress(EOFError, ConnectionError), nbd.Client(path) as client:
            client.greet()
        lift()
        # They stay, for what an ended thread leaves would do for the next one.
        client = opened.enter_context(nbd.Client(path))
        client.go()
        print(client.read(0, 3) == b"111")
"""


def said_by(program: str, folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program, str(folder)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_server_whose_threads_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    error, served = said_by(NO_THREADS, tmp_path)
    assert "unavailable" in error
    assert served == "True"


def test_a_client_for_whom_there_is_no_thread_is_lost_and_others_are_not(tmp_path: Path) -> None:
    assert said_by(NO_CLIENT, tmp_path) == ["True"] * 3


def test_a_choice_of_contexts_that_fails_leaves_none(tmp_path: Path) -> None:
    (tmp_path / "one.raw").write_bytes(b"1" * 4096)
    path = tmp_path / "s.sock"
    with (
        Chain(tmp_path / "one.raw") as chain,
        Server(chain, socket_path=path),
        nbd.Client(path) as client,
    ):
        client.greet()
        assert client.option(nbd.STRUCTURED_REPLY) == [(nbd.ACK, b"")]
        one = nbd.counted("") + (1).to_bytes(4, "big") + nbd.counted("base:allocation")
        assert client.option(nbd.SET_META_CONTEXT, one)[-1][0] == nbd.ACK
        assert client.option(nbd.SET_META_CONTEXT, one + b"more")[-1][0] >> 31
        assert client.option(nbd.GO, nbd.counted("") + bytes(2))[-1][0] == nbd.ACK
        client.send(client.request(nbd.BLOCK_STATUS, 0, 4096))
        assert client.error()[0] == 22
