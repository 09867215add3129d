"""A socket by which a command has chains snapshotted that another process serves.

A client sends one line of JSON, ``{"snapshot": {"export": NAME, "path": PATH, ...}}``, and gets one
line, ``{"return": ...}`` or ``{"error": MESSAGE}``, as with QEMU's monitor.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hatchway.disk.addresses import listen_at_path
from hatchway.disk.chain import Chain
from hatchway.disk.errors import ImageError

_MOST_REQUEST_BYTES = 65536
# Until a client has said what it wants; others wait.
_PATIENCE_S = 10.0
_FORM = {"index": bool, "cluster_size": int, "extended_l2": bool}


class Control:
    """Does what clients of a socket ask for, one after the other: a context manager.

    Only this user, and root, can connect. At the end what is being done is done first.

    Args:
        chains: By the names of their exports; open for writing.
        path: Of the socket.

    Raises:
        OSError: If another process listens there, or something else has that name.
        RuntimeError: If Hatchway's compiled kernels are missing.
    """

    def __init__(self, chains: Mapping[str, Chain], path: Path) -> None:
        self._chains = dict(chains)
        self._listening = listen_at_path(path)
        self._socket = socket.socket(fileno=os.dup(self._listening.fd))
        self._socket.setblocking(False)
        self._ending, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="hatchway-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no longer."""
        self._wake.close()
        self._thread.join()
        self._ending.close()
        self._socket.close()
        self._listening.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        listening = self._socket
        while self._ending not in select.select([listening, self._ending], [], [])[0]:
            # A client that has gone, or says nothing, is none.
            with contextlib.suppress(OSError):
                client, _ = listening.accept()
                with client:
                    self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(_PATIENCE_S)
        line = b""
        while not line.endswith(b"\n"):
            if select.select([client, self._ending], [], [], _PATIENCE_S)[0] != [client]:
                return
            more = client.recv(_MOST_REQUEST_BYTES)
            line += more
            if not more or len(line) > _MOST_REQUEST_BYTES:
                return
        try:
            answer: dict[str, Any] = {"return": self._done(line)}
        except (ImageError, OSError, ValueError) as error:
            answer = {"error": str(error)}
        client.sendall(json.dumps(answer).encode() + b"\n")

    def _done(self, line: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(line)["snapshot"]
            name, path = asked.pop("export"), asked.pop("path")
            is_known = all(
                key in _FORM and (value is None or type(value) is _FORM[key])
                for key, value in asked.items()
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            is_known, name, path = False, None, None
        is_known = is_known and isinstance(name, str) and isinstance(path, str)
        if not is_known or not os.path.isabs(path):
            raise ValueError(
                "this version of Hatchway does not know such a request; use the `hatchway` of the "
                "installation that serves"
            )
        if name not in self._chains:
            listed = ", ".join(map(repr, self._chains))
            raise ValueError(f"there is no export {name!r} here; there are {listed} (--export)")
        made = self._chains[name].snapshot(path, **asked)
        built = made.built
        return {
            **made._asdict(),
            "path": str(made.path),
            "built": None if built is None else {**built._asdict(), "path": str(built.path)},
            "index_error": None if made.index_error is None else str(made.index_error),
        }


def ask_for_snapshot(control: Path, export: str, new: Path, **form: Any) -> dict[str, Any]:
    """Have a chain that another process serves go on in a new overlay.

    Args:
        control: The socket of that process.
        export: The name of the chain.
        new: The overlay.
        form: ``index``, ``cluster_size`` and ``extended_l2``, as of
            :meth:`~hatchway.disk.Chain.snapshot`.

    Returns:
        The fields of its result, paths as strings.

    Raises:
        OSError: If nobody listens at the socket, or the process ended before it answered.
        ValueError: If it refused, or could not do it; then the chain is what it was.
    """
    asked = {"export": export, "path": os.path.abspath(new), **form}
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(control))
        except OSError as error:
            raise OSError(
                error.errno,
                f"no server listens there ({error.strerror}); it is to be started with --control",
                str(control),
            ) from None
        client.sendall(json.dumps({"snapshot": asked}).encode() + b"\n")
        with client.makefile("rb") as answers:
            line = answers.readline()
    if not line.endswith(b"\n"):
        raise ConnectionError(
            f"the server at {control} ended before it answered; if {asked['path']} is there, it is "
            "an overlay that can be used"
        )
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise ValueError(answer["error"])
    found: dict[str, Any] = answer["return"]
    return found
