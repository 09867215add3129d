"""Linux guests under QEMU's emulator, which run a script and say on their console what it found."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.disk.initramfs import kernel, write_initramfs
from benchmarks.errors import BenchmarkError

_MEMORY_MIB = 512
_PATIENCE_S = 300.0
_RECONNECT_S = 30
_SHOWN_LINES = 20


def image(path: Path, *, writable: bool = False) -> dict[str, Any]:
    """A disk that QEMU reads from a qcow2 file, and from those below it, by itself."""
    file = {"driver": "file", "filename": str(path)}
    return {"driver": "qcow2", "read-only": not writable, "file": file}


def export(socket_path: Path, *, writable: bool = False) -> dict[str, Any]:
    """A disk that an NBD server has.

    If the server goes away, a guest that only reads waits for the next one. One that writes sees
    errors: a new server may not have what was not flushed, and the guest would not know.
    """
    return {
        "driver": "nbd",
        "read-only": not writable,
        "server": {"type": "unix", "path": str(socket_path)},
        "reconnect-delay": 0 if writable else _RECONNECT_S,
    }


class Guest:
    """A guest that runs one script and then powers itself off.

    The disk is ``/dev/vda``. Leaving the context kills a guest that still runs, as a power cut
    does.

    Args:
        disk: What ``image`` or ``export`` gave.
        script: For the shell of busybox; see ``write_initramfs``.
        directory: Where the archive that it boots from is written.
        patience_s: It is killed after so long.
    """

    def __init__(
        self,
        disk: dict[str, Any],
        script: str,
        directory: Path,
        *,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        archive = directory / "initramfs"
        write_initramfs(archive, script)
        self.console: list[str] = []
        self._process = subprocess.Popen(
            [
                "qemu-system-x86_64",
                *("-accel", "tcg", "-cpu", "max", "-m", str(_MEMORY_MIB), "-no-reboot"),
                *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"),
                *("-kernel", str(kernel()), "-initrd", str(archive)),
                *("-append", "console=ttyS0 loglevel=1 panic=-1"),
                *("-blockdev", json.dumps({**disk, "node-name": "disk"})),
                *("-device", "virtio-blk-pci,drive=disk"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._patience = threading.Timer(patience_s, self._process.kill)
        self._patience.start()

    def hear(self, word: str) -> str:
        """Wait until the guest says this word; return the rest of the line.

        Raises:
            BenchmarkError: If it ends before.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = line.decode(errors="replace").strip()
            self.console.append(text)
            said, _, rest = text.removeprefix("@ ").partition(" ")
            if text.startswith("@ ") and said == word:
                return rest
        raise self._failure(f"ended before it said {word!r}")

    def finish(self) -> str:
        """Wait until the script has ended.

        Returns:
            All that came on the console.

        Raises:
            BenchmarkError: If a command of the script failed.
        """
        status = self.hear("ended")
        if status != "0":
            raise self._failure(f"ended its script with status {status}")
        self._process.wait()
        return "\n".join(self.console)

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._patience.cancel()
        self._process.kill()
        self._process.wait()
        self._patience.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _failure(self, what: str) -> BenchmarkError:
        last = "\n".join(self.console[-_SHOWN_LINES:])
        return BenchmarkError(f"the guest {what}; the end of its console:\n{last}")
