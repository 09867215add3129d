"""Runs ``hatchway`` commands, each in a fork of a process that has imported it already.

    python -m tests.real.forked_commands SOCKET

A command is a line of JSON, its arguments. The answer is the number of the process that runs it,
all that it prints and says, and ``ended STATUS``, a line each.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from hatchway.cli import main

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def running(path: Path) -> Iterator[None]:
    """The process, listening at ``path``."""
    # A library of NumPy's would start threads, and forks would have none of them.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(path)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # and forks that nobody ended


def listen(path: str) -> None:
    """Take commands until the end of the process."""
    import hatchway.cli.disk.serve  # noqa: F401 - what a fork should find imported

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _run(connection)
            connection.close()


def _run(connection: socket.socket) -> None:
    with connection.makefile("r") as lines:
        directory, *arguments = json.loads(lines.readline())
    os.chdir(directory)
    for number in (1, 2):
        os.dup2(connection.fileno(), number)
    connection.close()
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    status = 1
    try:
        status = main(arguments)
    except BaseException:
        traceback.print_exc()
    sys.stdout.write(f"ended {status}\n")
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    listen(sys.argv[1])
