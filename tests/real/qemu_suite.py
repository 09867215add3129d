"""QEMU's own tests of images (iotests), from Debian's source package, over a server of choice.

Each runs as it is, with tests/real/qemu_io_shim.py in place of ``qemu-io``. They are read from
the mirror that apt is set up with, and kept in ``.cache``.

    python -m tests.real.qemu_suite qemu-nbd 017 154     # what stock qemu-nbd makes of them
    python -m tests.real.qemu_suite hatchway 017 154
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.real import forked_commands
from tests.real.debian_source import fetched, kept

KEPT = "qemu-7.2-iotests"
# The release in Debian 12, which the fixed output of the tests is of.
ARCHIVE = "pool/main/q/qemu/qemu_7.2+dfsg.orig.tar.xz"
ARCHIVE_SHA256 = "91aca71520040edc40b8d437aa3004dae614f58e286cf653ee8996c07af2962f"
MEMBERS = ("qemu-7.2.0/tests/qemu-iotests/", "qemu-7.2.0/python/qemu/")
SHIM = Path(__file__).with_name("qemu_io_shim.py")
TIMEOUT_S = 600
# Asked for its formats and devices by tests that do not run it.
SYSTEM_EMULATOR = "#!/bin/sh\necho Supported formats: qcow2 raw\necho virtio-blk\n"


@dataclass(frozen=True)
class Outcome:
    """What one test came to.

    Attributes:
        result: "passed", "failed" or "skipped".
        text: What it said, of a failure the difference.
        calls: How each of its calls of ``qemu-io`` went; see the shim.
    """

    result: str
    text: str
    calls: list[str]

    def num_calls(self, how: str) -> int:
        return sum(call.split()[0] == how for call in self.calls)


def source() -> Path:
    """The directory of the tests.

    Raises:
        NotHere: If no mirror of Debian's archive is set up or can be reached.
    """
    return kept(KEPT, _fetch) / MEMBERS[0].split("/", 1)[1]


def _fetch(target: Path) -> None:
    archive = fetched(ARCHIVE, ARCHIVE_SHA256)
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r|xz") as tar:
        for entry in tar:
            if entry.isfile() and entry.name.startswith(MEMBERS):
                found = tar.extractfile(entry)
                assert found is not None
                path = target / entry.name.split("/", 1)[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(found.read())
                path.chmod(entry.mode)


class Suite:
    """Runs tests over one server.

    Args:
        iotests: Their directory.
        server: ``"qemu-nbd"`` or ``"hatchway"``.
        socket_path: Of tests/real/forked_commands.py.
    """

    def __init__(self, iotests: Path, server: str, socket_path: Path) -> None:
        self._iotests = iotests
        self._server = server
        self._socket_path = socket_path

    def run(self, name: str) -> Outcome:
        """Run one test."""
        # The name of a socket has to be short.
        with tempfile.TemporaryDirectory(prefix="iotest-") as directory:
            return self._run(name, Path(directory))

    def _run(self, name: str, directory: Path) -> Outcome:
        script = self._iotests / name
        is_python = script.read_text().startswith("#!/usr/bin/env python3")
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                [sys.executable if is_python else "bash", str(script)],
                cwd=self._iotests,
                env=self._environment(directory),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                timeout=TIMEOUT_S,
                check=False,
            )
            said.seek(0)
            found = _lines(said.read().decode(errors="replace"))
        calls = (directory / "log").read_text().splitlines()
        reason = directory / "scratch" / f"{name}.notrun"
        if reason.exists():
            return Outcome("skipped", reason.read_text().strip(), calls)
        expected = _lines((self._iotests / f"{name}.out").read_text())
        wrong = list(difflib.unified_diff(expected, found, "expected", "found", lineterm="", n=2))
        if done.returncode:
            wrong.append(f"exited with {done.returncode}")
        wrong += [call for call in calls if call.startswith("broken")]
        return Outcome("failed" if wrong else "passed", "\n".join(wrong), calls)

    def _environment(self, directory: Path) -> dict[str, str]:
        """What the tests expect to find; see testenv.py among them."""
        programs = {name: shutil.which(name) or "" for name in ("qemu-img", "qemu-io", "qemu-nbd")}
        log, settings = directory / "log", directory / "settings"
        log.touch()
        chosen = {"hatchway": str(self._socket_path), "server": self._server, "log": str(log)}
        settings.write_text(json.dumps({**programs, **chosen}))
        shim, emulator = directory / "qemu-io", directory / "qemu-system"
        shim.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {SHIM} {settings} "$@"\n')
        emulator.write_text(SYSTEM_EMULATOR)
        for program in (shim, emulator):
            program.chmod(0o755)
        for name in ("scratch", "sockets"):
            (directory / name).mkdir()
        io_options = "--cache writeback --aio threads"
        return {
            **os.environ,
            "PYTHONPATH": f"{self._iotests}:{self._iotests.parents[1] / 'python'}",
            "PYTHON": sys.executable,
            "TEST_DIR": str(directory / "scratch"),
            "SOCK_DIR": str(directory / "sockets"),
            "SAMPLE_IMG_DIR": str(self._iotests / "sample_images"),
            "QEMU_PROG": str(emulator),
            "QEMU_IMG_PROG": programs["qemu-img"],
            "QEMU_NBD_PROG": programs["qemu-nbd"],
            "QEMU_IO_PROG": str(shim),
            "QSD_PROG": str(emulator),
            "QEMU_OPTIONS": "",
            "QEMU_DEFAULT_MACHINE": "pc",
            "QEMU_IO_OPTIONS": f"{io_options} -f qcow2",
            "QEMU_IO_OPTIONS_NO_FMT": io_options,
            "IMGFMT": "qcow2",
            "IMGPROTO": "file",
            "IMGFMT_GENERIC": "true",
            "IMGOPTSSYNTAX": "false",
            "AIOMODE": "threads",
            "CACHEMODE": "writeback",
            "CACHEMODE_IS_DEFAULT": "true",
        }


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


@contextlib.contextmanager
def over(server: str) -> Iterator[Suite]:
    """The tests over a server.

    Raises:
        NotHere: As of :func:`source`.
    """
    iotests = source()
    with tempfile.TemporaryDirectory(prefix="iotests-") as directory:
        socket_path = Path(directory) / "s"
        with forked_commands.running(socket_path):
            yield Suite(iotests, server, socket_path)


def main() -> None:
    """Say what went through the server, and what failed."""
    server, *names = sys.argv[1:]
    with over(server) as suite, ThreadPoolExecutor(2) as pool:
        for name, outcome in zip(names, pool.map(suite.run, names), strict=True):
            print(name, outcome.result, *Counter(outcome.calls).items())
            if outcome.text:
                print(outcome.text)


if __name__ == "__main__":
    main()
