"""NBD servers of chains: Hatchway's and stock qemu-nbd, each a process of its own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SERVERS = ("hatchway", "qemu-nbd")


@dataclass(frozen=True)
class Serving:
    """A server that greets.

    Attributes:
        socket_path: Where it listens.
        ready_s: From the start of the process until it greeted a client.
        process: The server, which may be killed.
    """

    socket_path: Path
    ready_s: float
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def served(server: str, top: Path, *, writable: bool = False) -> Iterator[Serving]:
    """Have one of ``SERVERS`` serve a chain, and end it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "s.sock"
        command = {
            "hatchway": [sys.executable, "-m", "hatchway.cli", "disk", "serve"]
            + ["--writable"] * writable,
            # Its manual: threads and the page cache are what it uses without options.
            "qemu-nbd": ["qemu-nbd", "-t", "-e", "8", "-f", "qcow2"] + ["-r"] * (not writable),
        }[server]
        begun = time.perf_counter()
        process = subprocess.Popen(
            [*command, str(top), "--socket", str(path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_until_greeted(path, process)
            yield Serving(path, time.perf_counter() - begun, process)
        finally:
            process.terminate()
            process.wait()


def _wait_until_greeted(path: Path, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(path))
                if client.recv(1):
                    return
            except OSError:
                time.sleep(0.0002)
    raise SystemExit(f"{process.args} ended with {process.returncode}")
