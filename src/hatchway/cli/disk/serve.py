"""``hatchway disk serve``: chains for virtual machines, over NBD."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from hatchway.disk.chain import Chain
from hatchway.disk.kernel import share_arena
from hatchway.disk.server import Server


def serve(args: argparse.Namespace) -> int:
    """Serve until a signal comes, or the command that was given ends.

    Returns:
        0; the command's own exit status if there is one.

    Raises:
        ValueError: If two images have one name, or an argument makes no sense.
        OSError: If an address cannot be had.
        ImageError: If a chain cannot be opened.
    """
    if args.control is not None and not args.writable:
        raise ValueError("--control makes snapshots of what is written to; it needs --writable")
    share_arena()
    with contextlib.ExitStack() as opened:
        chains: dict[str, Chain] = {}
        for name, path in map(_named, args.images):
            if name in chains:
                raise ValueError(f"two images have the name {name!r}; name them apart: NAME=IMAGE")
            chains[name] = opened.enter_context(_open(path, args))
        socket_path = args.socket
        if socket_path is None and args.tcp is None:
            if args.run is None:
                raise ValueError("say where to listen: --socket PATH or --tcp HOST:PORT")
            import tempfile

            directory = opened.enter_context(tempfile.TemporaryDirectory(prefix="hatchway-"))
            socket_path = Path(directory) / "nbd.sock"
        address = None if args.tcp is None else _address(args.tcp)
        stopped = threading.Event()
        with (
            _stopping_on_signals(stopped),
            Server(
                chains,
                socket_path=socket_path,
                address=address,
                num_threads=args.threads,
                max_connections=args.max_connections,
            ) as server,
            _controlled(chains, args.control),
        ):
            if args.run is not None:
                return _run(args.run, server)
            for uri in server.uris:
                sys.stdout.write(f"serving {uri}\n")
            sys.stdout.flush()
            stopped.wait()
            counts = server.statistics()
        sys.stderr.write(
            f"hatchway disk: served {counts['num_requests']} requests of "
            f"{counts['num_connections']} connections, and stopped\n"
        )
    return 0


def _open(path: Path, args: argparse.Namespace) -> Chain:
    return Chain(
        path,
        writable=args.writable,
        image_format=args.format,
        snapshot=args.snapshot,
        allow_backing=args.allow_backing or args.allow_backing_in,
        lock=not args.no_lock,
    )


def _controlled(
    chains: dict[str, Chain], control: Path | None
) -> contextlib.AbstractContextManager[object]:
    if control is None:
        return contextlib.nullcontext()
    from hatchway.disk.control import Control  # and what it needs of sockets

    return Control(chains, control)


def _named(said: str) -> tuple[str, Path]:
    """``NAME=IMAGE``, or an image without a name, which may have a ``=`` in its directory."""
    name, equals, path = said.partition("=")
    if equals and "/" not in name:
        return name, Path(path)
    return "", Path(said)


def _address(said: str) -> tuple[str, int]:
    host, colon, port = said.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"--tcp must be HOST:PORT, such as 127.0.0.1:10809, not {said!r}")
    return host.strip("[]") or "127.0.0.1", int(port)


@contextlib.contextmanager
def _stopping_on_signals(stopped: threading.Event) -> Iterator[None]:
    """The first signal ends the server in order, a second one at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(command: str, server: Server) -> int:
    """Run a command of the shell, which finds the exports in ``$uri`` and ``$uris``."""
    import subprocess

    uris = server.uris
    found = {"uri": uris[0], "uris": " ".join(uris)}
    done = subprocess.run(command, shell=True, check=False, env={**os.environ, **found})
    return done.returncode if done.returncode >= 0 else 128 - done.returncode
