"""Kills a worker process, or a reader, before a chosen line of the loader's code."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from types import FrameType
from typing import Any

import pytest

import hatchway.loader
from hatchway.loader import pool

SOURCES = os.path.dirname(hatchway.loader.__file__) + os.sep
CONTEXT = multiprocessing.get_context("fork")


class Reaper:
    """Counts the lines that the first process of worker 0 runs, and may kill it.

    Install it before the loader starts; with the start method fork only.

    Args:
        monkeypatch: Puts everything back.
        starter: The module that starts it: ``stream`` for reader 0.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, starter: Any = pool) -> None:
        self._lines_run: Any = CONTEXT.RawValue("q", 0)
        self._is_armed: Any = CONTEXT.RawValue("b", 0)
        self._line = -1
        real_main = starter.main

        def main(task: Any) -> None:
            is_first = getattr(task, "worker_id", 0) == 0 == getattr(task, "reader_id", 0)
            if is_first and self._is_armed.value:
                self._is_armed.value = 0  # whoever replaces it lives
                sys.settrace(self._trace)
            real_main(task)

        monkeypatch.setattr(starter, "main", main)

    def arm(self, line: int) -> None:
        """Kill the next process of worker 0 before this line; -1 only counts."""
        self._line = line
        self._lines_run.value = 0
        self._is_armed.value = 1

    @property
    def lines_run(self) -> int:
        """How many lines the process has run."""
        return int(self._lines_run.value)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(SOURCES):
            return None
        if event == "line":
            if self._lines_run.value == self._line:
                os.kill(os.getpid(), signal.SIGKILL)
            self._lines_run.value += 1
        return self._trace
