"""Training scripts that end in some way, run in a session of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil

PRELUDE = """
import os, signal, sys, time
import torch
from torch.utils.data import Dataset
from hatchway import DataLoader

class Numbers(Dataset):
    def __len__(self):
        return 10_000_000
    def __getitem__(self, index):
        return torch.full((16,), index), str(index)

def loader(**arguments):
    arguments = {"batch_size": 4, "num_workers": 2, **arguments}
    return DataLoader(Numbers(), **arguments)

def say(text):
    print(text, flush=True)
"""


class Script:
    """A running script whose workers can be found and whose output can be read."""

    def __init__(self, body: str, directory: Path) -> None:
        path = directory / "script.py"
        path.write_text(PRELUDE + textwrap.dedent(body))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A test run in the background of a shell is started with SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def heard(self) -> str:
        """The next line that the script says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def signal_everyone(self, number: signal.Signals) -> None:
        """What a terminal does: the whole process group gets the signal."""
        os.killpg(self.process.pid, number)

    def end(self, timeout_s: float = 30.0) -> tuple[int, str, str]:
        """Exit code, output and error output, when it has ended by itself."""
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, err


@contextlib.contextmanager
def running(body: str, directory: Path) -> Iterator[Script]:
    """A script that is surely gone at the end, and its workers with it."""
    script = Script(body, directory)
    try:
        yield script
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(script.process.pid, signal.SIGKILL)
        script.process.wait()
        for stream in (script.process.stdout, script.process.stderr):
            if stream is not None:
                stream.close()
