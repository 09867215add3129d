"""Whatever a client says, the server goes on, and the next client is served."""

from __future__ import annotations

import contextlib
import resource
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hatchway.disk import Chain, Server
from tests.real import nbd

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]

SIZE = 1 << 20
NUMBERS = st.one_of(
    st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 7, 4096, SIZE, 32 << 20, 2**31, 2**32 - 1])
)
OPTIONS = st.tuples(
    st.integers(0, 12) | NUMBERS,
    st.none() | NUMBERS,
    st.binary(max_size=40)
    | st.builds(lambda length, rest: struct.pack(">I", length) + rest, NUMBERS, st.binary()),
)
REQUESTS = st.tuples(
    st.sampled_from([0x25609513, 0x25609513, 0x25609513, 0]),
    st.integers(0, 2**16 - 1),
    st.integers(0, 9) | st.integers(0, 2**16 - 1),
    NUMBERS | st.integers(0, 2**64 - 1),
    NUMBERS,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    (folder / "one.raw").write_bytes(b"1" * SIZE)
    with (
        Chain(folder / "one.raw") as chain,
        Server(chain, socket_path=folder / "s.sock") as server,
    ):
        yield server


@pytest.fixture
def path(server: Server, folder: Path) -> Iterator[Path]:
    yield folder / "s.sock"
    # That a client is gone is noticed a moment later.
    for _ in range(100_000):
        if server.statistics()["num_clients"] == 0:
            return
    raise AssertionError("a client that is gone is not noticed")


def assert_served(path: Path) -> None:
    with nbd.Client(path) as client:
        client.go()
        assert client.read(SIZE - 3, 3) == b"111"


def say(client: nbd.Client, said: bytes) -> None:
    """Say it, and take whatever comes until the server has nothing to say any more."""
    with contextlib.suppress(ConnectionError):
        client.send(said)
        client.socket.shutdown(1)
        while client.socket.recv(1 << 20):
            pass


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=150)
@given(said=st.binary(max_size=200))
def test_a_greeting_of_any_bytes(path: Path, said: bytes) -> None:
    with nbd.Client(path) as client:
        say(client, said)
    assert_served(path)


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=300)
@given(options=st.lists(OPTIONS, max_size=4), kept=st.integers(0, 400))
def test_options_of_any_kind_and_length(
    path: Path, options: list[tuple[int, int | None, bytes]], kept: int
) -> None:
    said = b"".join(
        nbd.OPTION.pack(0x49484156454F5054, option, len(data) if length is None else length) + data
        for option, length, data in options
    )
    with nbd.Client(path) as client:
        client.greet()
        say(client, said[:kept])
    assert_served(path)


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=300)
@given(
    requests=st.lists(REQUESTS, max_size=6),
    structured=st.booleans(),
    kept=st.integers(0, 200) | st.just(1000),
)
def test_requests_of_any_kind_and_length(
    path: Path,
    requests: list[tuple[int, int, int, int, int]],
    structured: bool,
    kept: int,
) -> None:
    said = b"".join(
        nbd.REQUEST.pack(magic, flags, kind, 1, offset, length)
        for magic, flags, kind, offset, length in requests
    )
    with nbd.Client(path) as client:
        client.go("", *["base:allocation"] * structured, structured=structured)
        say(client, said[:kept])
    assert_served(path)


def test_clients_that_say_nothing_do_not_use_up_memory(path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clients = [greeted(path) for _ in range(100)]
    for client in clients:
        # A long option, and a long write, that do not come.
        client.send(nbd.OPTION.pack(0x49484156454F5054, nbd.GO, 60_000))
    assert_served(path)
    for client in clients:
        client.socket.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def greeted(path: Path) -> nbd.Client:
    client = nbd.Client(path)
    try:
        client.greet()
    except BaseException:
        client.socket.close()
        raise
    return client


def test_a_client_is_refused_when_there_are_too_many(path: Path) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(256):
            opened.enter_context(greeted(path))
        # Some are told why, and not even that is done for any number of them.
        for _ in range(16):
            told = opened.enter_context(greeted(path))
            told.send(nbd.OPTION.pack(0x49484156454F5054, nbd.LIST, 1))
        with pytest.raises((EOFError, ConnectionError)):
            greeted(path)
        opened.pop_all().close()
        # That they are gone is noticed one by one.
        for _ in range(1000):
            with contextlib.suppress(EOFError, ConnectionError):
                assert_served(path)
                return
    raise AssertionError("the server takes no client any more")
