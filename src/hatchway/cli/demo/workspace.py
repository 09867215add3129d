"""A folder that outlives neither the demo nor a Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CLEAR_LINE_SHOW_CURSOR = "\r\x1b[2K\x1b[?25h"


class Workspace:
    """A temporary folder, and signal handlers that end the process at once and leave nothing.

    On Ctrl-C (SIGTERM, SIGHUP) inside the ``with`` block the workers are killed, the folder is
    removed, one line is printed and the process exits with 128 + the signal's number. No exception
    unwinds the stack: it could land in a destructor, a lock or an import and print a traceback.

    Entered outside the main thread it is only a folder: Python delivers signals to the main one.
    """

    def __init__(self) -> None:
        # Named before it is made, so that no moment lies between the two.
        self.folder = Path(tempfile.gettempdir(), f"hatchway-demo-{secrets.token_hex(8)}")
        self._owner = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Workspace:
        """Take the signals, then make the folder."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._end) for number in _SIGNALS}
        self.folder.mkdir(mode=0o700)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the folder, then give the signals back."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        # Forked workers inherit this handler; a terminal's Ctrl-C reaches them too. They leave
        # the ending to the process that owns the folder.
        if os.getpid() != self._owner:
            return
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        # torch's handler raises when a worker dies; here they die on purpose.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        shutil.rmtree(self.folder, ignore_errors=True)
        clear = _CLEAR_LINE_SHOW_CURSOR if sys.stdout.isatty() else ""
        line = f"{clear}Interrupted: the workers are stopped, the demo's files are removed.\n"
        # Straight to the descriptor: the stream may be in the middle of a write.
        os.write(sys.stdout.fileno(), line.encode())
        os._exit(128 + number)
