"""Takes the place of ``qemu-io``: the same commands, through an NBD server on the image.

    python qemu_io_shim.py SETTINGS [what qemu-io was given]

The settings are JSON: ``qemu-io`` and ``qemu-nbd`` are programs, ``hatchway`` is the socket of
tests/real/forked_commands.py, ``server`` is one of the latter two, and ``log`` a file to which
each call adds how it went:

    through             its commands went to the server
    direct REASON       real qemu-io did them: they are about a file, not about a disk
    refused MESSAGE     the server did not open the image, and neither did real qemu-io
    declined MESSAGE    the server did not open the image, and real qemu-io did them
    broken MESSAGE      the server did something wrong, which is a failure of its own
"""

from __future__ import annotations

import getopt
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE_S = 20
TRACEBACK = "Traceback (most recent call last)"
# What means the same to any disk. Others are about the format, or about qemu-io.
COMMANDS = ("aio_flush", "aio_read", "aio_write", "close", "discard", "flush", "length", "quit")
COMMANDS += ("read", "readv", "write", "writev", "q", "f", "r", "w", "rv", "wv", "d", "l", "help")
TAKE_VALUES = "lPs"
# Compressed, to the state of a virtual machine, without a fallback: NBD has no words for it.
ONLY_OF_FILES = "bcn"
LETTERS = "hVc:d:f:rsnCmki:t:T:U"
LONG = ["cmd=", "format=", "read-only", "nocache", "misalign", "native-aio", "aio=", "cache="]
LONG += ["force-share", "snapshot", "copy-on-read", "image-opts", "discard=", "trace=", "object="]
# How the file is opened: nothing that a disk shows.
NO_MATTER = ("-n", "--nocache", "-k", "--native-aio", "-i", "--aio", "-t", "--cache")


class Direct(Exception):  # noqa: N818 - no error: it says why real qemu-io is needed
    """What was asked for does not go through a server."""


@dataclass
class Call:
    """What qemu-io was asked for."""

    image: str = ""
    image_format: str | None = None
    commands: list[str] = field(default_factory=list)
    is_read_only: bool = False
    is_shared: bool = False
    is_misaligned: bool = False


@dataclass
class Served:
    """A server that runs, and how to end it; or the reason why there is none."""

    uri: str = ""
    refusal: str = ""
    stop: Callable[[], str] = str  # returns what went wrong


def parse(arguments: list[str]) -> Call:
    """What a command line means.

    Raises:
        Direct: If it means something that does not go through a server.
    """
    call = Call()
    options, operands = getopt.gnu_getopt(arguments, LETTERS, LONG)
    for name, value in options:
        if name in ("-c", "--cmd"):
            call.commands.append(value)
        elif name in ("-f", "--format"):
            call.image_format = value
        elif name in ("-r", "--read-only"):
            call.is_read_only = True
        elif name in ("-U", "--force-share"):
            call.is_shared = True
        elif name in ("-m", "--misalign"):
            call.is_misaligned = True
        elif name not in NO_MATTER:
            raise Direct(name)
    if len(operands) != 1:
        raise Direct("no image")
    call.image = operands[0].removeprefix("file:")
    if call.image_format == "raw" and not call.is_read_only:
        raise Direct("raw")  # only qcow2 files are written to
    if call.image_format not in (None, "raw", "qcow2"):
        raise Direct(f"format {call.image_format}")
    if not os.path.isfile(call.image):
        raise Direct("not a file")
    return call


def check(commands: list[str]) -> None:
    """Raise if not all commands go through a server.

    Raises:
        Direct: If so.
    """
    for line in commands:
        words = line.split()
        if not words:
            continue
        if words[0] not in COMMANDS:
            raise Direct(words[0])
        for word in words[1:]:
            letters = word[1:] if word.startswith("-") else ""
            ends = [letters.index(letter) for letter in TAKE_VALUES if letter in letters]
            for letter in letters[: min(ends, default=None)]:
                if letter in ONLY_OF_FILES:
                    raise Direct(f"{words[0]} -{letter}")


def by_qemu_nbd(program: str, call: Call, directory: Path) -> Served:
    """Stock qemu-nbd."""
    path, noted = directory / "s", directory / "pid"
    command = [program, "--fork", "--persistent", "--discard=unmap"]
    command += [f"--socket={path}", f"--pid-file={noted}"]
    command += ["--read-only"] * call.is_read_only
    command += [f"--format={call.image_format}"] if call.image_format else []
    done = subprocess.run([*command, call.image], capture_output=True, check=False)
    # What it says while it repairs an image looks like a failure to the process that waits.
    if not noted.exists():
        return Served(refusal=done.stderr.decode())
    pid = int(noted.read_text())

    def stop() -> str:
        handle = os.pidfd_open(pid)
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        ended, _, _ = select.select([handle], [], [], PATIENCE_S)
        return "" if ended else "qemu-nbd did not end"

    return Served(f"nbd+unix:///?socket={path}", stop=stop)


def by_hatchway(commands: str, call: Call, directory: Path) -> Served:
    """``hatchway disk serve``, in a fork of tests/real/forked_commands.py."""
    command = ["disk", "serve", "--allow-backing", "--socket", str(directory / "s")]
    command += ["--format", call.image_format] if call.image_format else []
    command += ["--no-lock"] * call.is_shared
    command += ["--writable"] * (not call.is_read_only)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE_S)
    connection.connect(commands)
    connection.sendall(json.dumps([os.getcwd(), *command, call.image]).encode() + b"\n")
    said = connection.makefile("r")
    pid = int(said.readline())
    line = said.readline()
    if not line.startswith("serving "):
        return Served(refusal=line + said.read())

    def stop() -> str:
        os.kill(pid, signal.SIGTERM)
        message = said.read()
        return "" if message.endswith("\nended 0\n") and TRACEBACK not in message else message

    return Served(line.split()[1], stop=stop)


SERVERS = {"qemu-nbd": by_qemu_nbd, "hatchway": by_hatchway}


def main() -> int:
    """Do what qemu-io was asked for.

    Returns:
        Its exit status; less than 0 if a signal ended it.
    """
    settings = json.loads(Path(sys.argv[1]).read_text())
    arguments = sys.argv[2:]
    typed: bytes | None = None
    try:
        call = parse(arguments)
        commands = call.commands
        if not commands:
            typed = sys.stdin.buffer.read()
            commands = typed.decode().splitlines()
        check(commands)
    except Direct as reason:
        note(settings, f"direct {reason}")
        return run([settings["qemu-io"], *arguments], typed)
    server, program = SERVERS[settings["server"]], settings[settings["server"]]
    with tempfile.TemporaryDirectory(prefix="shim-") as name:
        served = server(program, call, Path(name))
        if served.refusal:
            status = run([settings["qemu-io"], *arguments], typed)
            how = "refused" if status else "declined"
            note(settings, f"{'broken' if TRACEBACK in served.refusal else how} {served.refusal}")
            return status
        options = [part for command in call.commands for part in ("-c", command)]
        options += ["-r"] * call.is_read_only + ["-m"] * call.is_misaligned
        status = run([settings["qemu-io"], "-f", "raw", *options, served.uri], typed)
        wrong = served.stop()
    note(settings, f"broken {wrong}" if wrong else "through")
    return status


def run(command: list[str], typed: bytes | None) -> int:
    """Run a program with what it would have read."""
    return subprocess.run(command, input=typed, check=False).returncode


def note(settings: dict[str, str], line: str) -> None:
    """Add a line to the log."""
    with open(settings["log"], "a", encoding="utf-8") as log:
        log.write(line.replace("\n", " ") + "\n")


if __name__ == "__main__":
    result = main()
    if result < 0:  # the shell says so of a program that was killed
        os.kill(os.getpid(), -result)
    sys.exit(result)
