"""What one process serves goes on in a new overlay when another command asks for it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hatchway.cli import main
from hatchway.disk import Chain
from hatchway.disk.control import Control
from tests.real import nbd, qemu

pytestmark = [pytest.mark.real, qemu.needs_qemu]

MIB = 1 << 20
CLI = [sys.executable, "-m", "hatchway.cli", "disk"]


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Path]:
    top = qemu.create(tmp_path / "0.qcow2", 4 * MIB)
    with Chain(top, writable=True) as chain, Control({"disk": chain}, tmp_path / "c.sock"):
        chain.write_at(0, b"before")
        yield tmp_path / "c.sock"


def test_a_served_chain_goes_on_in_an_overlay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    top, new = qemu.create(tmp_path / "0.qcow2", 4 * MIB), tmp_path / "1.qcow2"
    sockets = {name: tmp_path / f"{name}.sock" for name in ("nbd", "control")}
    command = ["serve", "--writable", top, "--socket", sockets["nbd"]]
    with subprocess.Popen(
        [*CLI, *map(str, command), "--control", str(sockets["control"])],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            assert process.stdout is not None
            assert b"serving" in process.stdout.readline()
            with nbd.Client(sockets["nbd"]) as client:
                client.go()
                client.send(client.request(nbd.WRITE, 0, 3) + b"one")
                assert client.chunk()[1] == 0
                asked = ["disk", "snapshot", "--served", str(sockets["control"]), str(new)]
                assert main([*asked, "--json", "--index"]) == 0
                done = json.loads(capsys.readouterr().out)
                assert (done["path"], done["backing_name"]) == (str(new), "0.qcow2")
                assert done["built"]["num_layers"] == 1
                client.send(client.request(nbd.WRITE, 0, 3) + b"two")
                assert client.chunk()[1] == 0
                assert client.read(0, 4) == b"two\0"
                assert main(asked) == 1
                assert "is there already" in capsys.readouterr().err
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert not any(path.exists() for path in sockets.values())
    assert qemu.contents(top)[:3] == b"one"
    assert qemu.contents(new)[:3] == b"two"
    qemu.check(top)
    qemu.check(new)


def test_the_socket_is_this_users(control: Path) -> None:
    assert os.stat(control).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--served", "{}", "{}.qcow2"], "there is no export ''"),
        (["--served", "{}", "{}.qcow2", "--export", "disk", "--cluster-size", "512"], "pieces"),
        (["--served", "{}", "{}.qcow2", "--export", "disk", "--format", "raw"], "--format"),
        (["--served", "{}.not", "{}.qcow2"], "--control"),
        (["--served", "{}", "{}", "{}.qcow2"], "say which image"),
        (["{}.qcow2"], "say which image"),
    ],
)
def test_what_cannot_be_done_is_said(
    control: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["disk", "snapshot", *(part.format(control) for part in arguments)]) == 1
    assert said in capsys.readouterr().err
    assert not control.with_name("c.sock.qcow2").exists()


@pytest.mark.parametrize(
    "request_line",
    [
        b"\n",
        b"[]\n",
        b'{"snapshot": {"export": "disk", "path": "relative"}}\n',
        b'{"snapshot": {"export": "disk", "path": "/x", "progress": 1}}\n',
        b'{"snapshot": {"export": "disk", "path": "/x", "cluster_size": "1"}}\n',
        b'{"snapshot": {"export": ["disk"], "path": 1}}\n',
        b'{"snapshot": {"export": ["disk"], "path": "/x"}}\n',
        b"\xff\xfe\n",
        b"x" * 70_000,
        b"no end",
    ],
)
def test_a_client_that_makes_no_sense_ends_nothing(
    control: Path, request_line: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(control))
        client.sendall(request_line)
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as answers:
            answer = answers.readline()
        assert not answer or "does not know such a request" in json.loads(answer)["error"]
    new = control.with_name("1.qcow2")
    asked = ["disk", "snapshot", "--served", str(control), str(new), "--export", "disk"]
    assert main(asked) == 0
    assert "lies there now" in capsys.readouterr().out
    assert qemu.contents(new.with_name("0.qcow2"))[:6] == b"before"


def test_it_ends_while_a_client_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, is_there = tmp_path / "c.sock", threading.Event()

    def serve(self: Control, client: socket.socket) -> None:
        is_there.set()
        serve_client(self, client)

    serve_client = Control._serve
    monkeypatch.setattr(Control, "_serve", serve)
    monkeypatch.setattr("hatchway.disk.control._PATIENCE_S", 1000.0)
    with Chain(qemu.create(tmp_path / "0.qcow2", MIB), writable=True) as chain:
        control = Control({"": chain}, path)
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(path))
            assert is_there.wait(20)
            control.close()  # or the test does not end
        assert not path.exists()


def test_a_control_needs_a_chain_that_is_written_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    top = qemu.create(tmp_path / "0.qcow2", MIB)
    assert main(["disk", "serve", str(top), "--control", str(tmp_path / "c"), "--run", "true"]) == 1
    assert "--writable" in capsys.readouterr().err
