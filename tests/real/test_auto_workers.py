"""``num_workers="auto"`` with real processes: they come and go, and nothing is lost."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from hatchway import DataLoader
from hatchway.loader import adaptation, worker_count

pytestmark = pytest.mark.real


class Waiting(Dataset[Any]):
    """Samples that wait; they say who made them."""

    def __init__(self, num_samples: int, seconds: float, log: str | None = None) -> None:
        self.num_samples, self.seconds, self.log = num_samples, seconds, log

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> tuple[int, float]:
        if self.log is not None:
            with open(self.log, "a") as file:
                file.write(f"{index}\n")
        time.sleep(self.seconds)
        return index, float(torch.rand(()))


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions come faster than for a user, so that many fall into a short test."""
    hurry(monkeypatch.setattr)


def hurry(set_attribute: Callable[[Any, str, float], None] = setattr) -> None:
    set_attribute(adaptation, "PERIOD_S", 0.1)
    set_attribute(worker_count, "_PATIENCE_S", 0.3)


def processes_of(iterator: Any) -> list[int]:
    return [process.pid for process in iterator._pool._workers.values()]


def has_grown(loader: Any, most: int) -> bool:
    """Whether there are more workers than at first; there may be as many as allowed at once."""
    num_workers: int = loader.statistics().num_workers
    return loader.num_workers < num_workers <= most or loader.num_workers == num_workers == most


def indices_of(batches: list[Any]) -> list[int]:
    return [int(index) for indices, _ in batches for index in indices]


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_workers_are_added_while_the_loop_waits(order: str) -> None:
    loader: Any = DataLoader(
        Waiting(600, 0.01), 8, num_workers="auto", max_workers=12, order=order, timeout=30
    )
    came = indices_of(list(loader))
    assert sorted(came) == list(range(600))
    assert order == "ready" or came == list(range(600))
    last = loader.statistics()
    assert has_grown(loader, 12)
    assert last.num_workers_reason
    assert last.num_restarts == last.num_background_workers == 0
    assert loader.worker_count.count == last.num_workers  # the next pass begins with them


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_no_sample_is_made_twice_when_workers_are_let_go(order: str, tmp_path: Path) -> None:
    log = tmp_path / "made"
    loader: Any = DataLoader(
        Waiting(900, 0.005, str(log)), 4, num_workers="auto", max_workers=10, order=order,
        timeout=30,
    )  # fmt: skip
    loader.worker_count.count = 10
    came, most = [], 0
    for batch in loader:
        came.append(batch)
        most = max(most, loader.statistics().num_workers_alive)
        time.sleep(0.02)  # two workers would do
    last = loader.statistics()
    assert most == 10
    assert last.num_retired >= 2
    assert last.num_workers <= 8
    assert last.num_restarts == 0
    assert sorted(indices_of(came)) == list(range(900))
    assert sorted(map(int, log.read_text().split())) == list(range(900))


def test_contents_are_those_of_a_fixed_number_of_workers() -> None:
    def batches(num_workers: Any) -> list[Any]:
        torch.manual_seed(5)
        data = Waiting(200, 0.002)
        return list(DataLoader(data, 5, shuffle=True, num_workers=num_workers, order="strict"))

    for one, other in zip(batches("auto"), batches(2), strict=True):
        assert all(map(torch.equal, one, other))


def test_workers_that_are_killed_while_others_come_and_go_lose_nothing() -> None:
    loader: Any = DataLoader(Waiting(800, 0.005), 4, num_workers="auto", max_workers=8, timeout=30)
    loader.worker_count.count = 8
    came, killed = [], 0
    iterator = iter(loader)
    for number, batch in enumerate(iterator):
        came.append(batch)
        time.sleep(0.03 if number < 60 else 0.0)
        if number % 20 == 10:
            workers = processes_of(iterator)
            os.kill(workers[number % len(workers)], signal.SIGKILL)
            killed += 1
    assert killed == 10
    assert sorted(indices_of(came)) == list(range(800))


def test_persistent_workers_go_on_with_as_many_and_leave_nobody_behind() -> None:
    loader: Any = DataLoader(
        Waiting(300, 0.01), 8, num_workers="auto", max_workers=12, persistent_workers=True
    )
    for _ in range(3):
        assert sorted(indices_of(list(loader))) == list(range(300))
    workers = processes_of(loader._iterator)
    assert loader.statistics().num_workers_alive == len(workers)
    assert has_grown(loader, 12)
    loader._iterator = None
    assert not any(map(psutil.pid_exists, workers))


def test_it_is_saved_and_goes_on_with_another_number() -> None:
    loader: Any = DataLoader(Waiting(200, 0.005), 4, num_workers="auto", max_workers=6)
    iterator = iter(loader)
    came = [next(iterator) for _ in range(20)]
    state = loader.state_dict()
    del iterator
    other: Any = DataLoader(Waiting(200, 0.005), 4, num_workers=1)
    other.load_state_dict(state)
    assert sorted(indices_of(came + list(other))) == list(range(200))


class Large(Waiting):
    def __getitem__(self, index: int) -> Any:
        time.sleep(self.seconds)
        return torch.full((64, 1024), float(index))


def most_memory_of_a_worker(buffer_bytes: int) -> int:
    loader: Any = DataLoader(
        Large(300, 0.02), 4, num_workers="auto", max_workers=10, buffer_bytes=buffer_bytes,
        timeout=30, multiprocessing_context="fork",
    )  # fmt: skip
    most, iterator = 0, iter(loader)
    for number, batch in enumerate(iterator):
        assert batch.shape == (4, 64, 1024)
        if number % 10 == 5:
            for pid in processes_of(iterator):
                with contextlib.suppress(psutil.Error):
                    most = max(most, psutil.Process(pid).memory_full_info().uss)
    assert has_grown(loader, 10)
    assert loader.statistics().buffer_peak_bytes <= buffer_bytes
    return most


def test_memory_is_bounded_however_many_there_are() -> None:
    # A forked worker copies what it looks at of its parent: here one that holds no other tests.
    buffer_bytes = 8 << 20
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), hurry) as parents:
        most = parents.submit(most_memory_of_a_worker, buffer_bytes).result()
    # 11 MiB beside what it sees of the buffer; docs/loader.md.
    assert 0 < most < (24 << 20) + buffer_bytes


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        info = get_worker_info()
        assert info is not None
        return iter(range(info.id, 12, info.num_workers))


def test_an_iterable_dataset_has_the_number_that_it_begins_with() -> None:
    loader: Any = DataLoader(Stream(), 2, num_workers="auto", max_workers=2)
    assert sorted(torch.cat(list(loader)).tolist()) == list(range(12))


def test_a_loop_that_stops_reading_costs_no_processor_time() -> None:
    loader: Any = DataLoader(Waiting(4000, 0.001), 4, num_workers="auto", max_workers=4)
    iterator = iter(loader)
    next(iterator)
    time.sleep(1.0)  # the window is full by now
    workers = [psutil.Process(), *map(psutil.Process, processes_of(iterator))]
    before_s = sum(sum(one.cpu_times()[:2]) for one in workers)
    time.sleep(1.0)
    assert sum(sum(one.cpu_times()[:2]) for one in workers) - before_s < 0.1
