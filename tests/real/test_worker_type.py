"""``worker_type="auto"``: what is tried, where, and what is chosen."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest
import torch

from hatchway import DataLoader
from hatchway.loader import worker_type
from tests.real.drawn import Drawn

pytestmark = pytest.mark.real


class Wants(Drawn):
    """Waits, and says no where it is not in a worker as it expects it."""

    def __init__(self, refuses: str = "") -> None:
        super().__init__(40, 0.005)
        self.refuses = refuses
        self.here = os.getpid()
        self.main = threading.get_ident()

    def __getitem__(self, index: int) -> Any:
        info = torch.utils.data.get_worker_info()
        if self.refuses == "threads" and info is None:
            raise RuntimeError("not in a worker process")
        if self.refuses == "workers" and os.getpid() != self.here:
            os._exit(1)
        assert os.getpid() != self.here or threading.get_ident() != self.main
        return super().__getitem__(index)


def test_auto_takes_threads_where_samples_wait_and_touches_nothing_here() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    loader: Any = DataLoader(Wants(), 4, num_workers=2, worker_type="auto")
    # Waiting takes threads as long as processes, but for what else the machine does.
    chosen = [worker_type.choose_worker_type(loader) for _ in range(5)]
    assert "thread" in chosen
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(len(batch["index"]) for batch in loader) == 40


@pytest.mark.parametrize("refuses", ["threads", "workers"])
def test_auto_takes_processes_where_threads_cannot_or_nothing_can_be_tried(refuses: str) -> None:
    loader: Any = DataLoader(Wants(refuses), 4, num_workers=1, worker_type="auto")
    assert loader.has_threads is False


@pytest.mark.parametrize(("threads_s", "chosen"), [(0.9, True), (1.05, True), (1.4, False)])
def test_auto_takes_threads_where_they_are_about_as_fast(
    threads_s: float, chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        """Stands for the time that two processes take: one second."""

        now_s = 0.0

        def monotonic(self) -> float:
            self.now_s += 1.0
            return self.now_s

    monkeypatch.setattr(worker_type, "time", Clock())
    tried = worker_type.Tried(60, threads_s, 0)
    answers = iter([worker_type.Tried(60, 0.1, 0), tried, None, None, None, None])
    monkeypatch.setattr(worker_type, "_expect", lambda *_: next(answers))
    monkeypatch.setattr(worker_type, "_serve", lambda *_: time.sleep(30))
    loader: Any = DataLoader(Drawn(), 4, num_workers=1, worker_type="auto")
    assert loader.has_threads is chosen


def test_a_trial_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Drawn):
        def __getitem__(self, index: int) -> int:
            time.sleep(0.05 if index else 0.0)
            return index

    monkeypatch.setattr(worker_type, "_TRIAL_S", 0.2)
    tried = worker_type._run(Slow(), range(60), 0.2)
    assert 4 <= tried.num_samples < 20
    monkeypatch.setattr(worker_type, "_LONGEST_S", 0.1)
    assert worker_type._run(Slow(), range(60), 0.2).num_samples < 4
    assert DataLoader(Drawn(3), worker_type="auto").has_threads is False
