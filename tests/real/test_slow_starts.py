"""Where starting a worker takes seconds, the first batch does not wait for the last worker."""

from __future__ import annotations

import multiprocessing
import sys
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from hatchway import DataLoader
from hatchway.loader import pool

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

NUM_WORKERS = 3
# This many workers are more than small machines have cores; they import, or wait.
TOO_MANY = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "cpu_quota", lambda: 1.0)


class Meeting(Dataset[torch.Tensor]):
    """Its samples are made when all workers are at one."""

    def __init__(self, barrier: Any) -> None:
        self.barrier = barrier

    def __len__(self) -> int:
        return NUM_WORKERS

    def __getitem__(self, index: int) -> torch.Tensor:
        self.barrier.wait(60)
        return torch.tensor(index)


class Numbers(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(index)


@TOO_MANY
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_all_workers_come_while_the_first_wait_for_them(method: str, one_core: None) -> None:
    context = multiprocessing.get_context(method)
    loader = DataLoader(
        Meeting(context.Barrier(NUM_WORKERS)),
        num_workers=NUM_WORKERS,
        multiprocessing_context=context,
        timeout=100,
    )
    assert [batch.item() for batch in loader] == list(range(NUM_WORKERS))


@TOO_MANY
def test_the_first_batch_comes_before_the_last_worker(one_core: None) -> None:
    loader = DataLoader(
        Numbers(),
        batch_size=2,
        num_workers=NUM_WORKERS,
        multiprocessing_context="spawn",
        persistent_workers=True,
        timeout=100,
    )
    batches = iter(loader)
    assert next(batches).tolist() == [0, 1]
    assert loader.statistics().num_workers_alive < NUM_WORKERS
    assert sorted(number for batch in batches for number in batch.tolist()) == list(range(2, 12))


@TOO_MANY
def test_an_iterator_that_is_dropped_meanwhile_starts_no_more(one_core: None) -> None:
    loader = DataLoader(
        Numbers(), num_workers=NUM_WORKERS, multiprocessing_context="spawn", timeout=100
    )
    batches = iter(loader)
    begun = batches._workers  # type: ignore[attr-defined]
    assert len(begun) == 1
    del batches
    assert not any(worker.is_alive() for worker in begun)


def test_forked_workers_start_all_at_once(one_core: None) -> None:
    loader = DataLoader(Numbers(), num_workers=2, multiprocessing_context="fork", timeout=100)
    assert len(iter(loader)._workers) == 2  # type: ignore[attr-defined]


class Imported(Numbers):
    """Its samples say what a worker has imported by then."""

    def __getitem__(self, index: int) -> torch.Tensor:
        needless = ("passes", "iterator", "sharing", "streamed", "worker_type")
        return torch.tensor([f"hatchway.loader.{name}" in sys.modules for name in needless])


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_worker_that_is_started_anew_does_not_import_what_only_a_pass_needs(method: str) -> None:
    loader = DataLoader(Imported(), num_workers=1, multiprocessing_context=method, timeout=100)
    assert not any(batch.any() for batch in loader)
