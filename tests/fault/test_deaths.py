"""Workers that die in the user's code are replaced; who dies twice is named."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, default_collate

from hatchway import DataLoader
from hatchway.loader import SampleError, WorkerDiedError, pool
from tests.fault.reaper import CONTEXT

pytestmark = pytest.mark.fault

NUM_SAMPLES = 12


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segfault() -> None:
    faulthandler.disable()  # pytest's would write to the terminal
    ctypes.string_at(0)


def leave() -> None:
    os._exit(3)


def abort() -> None:
    faulthandler.disable()
    os.abort()


class Deadly(Dataset[Any]):
    """Dies at some samples, as often as it is told to.

    Args:
        times: How often each sample kills its worker.
        die: How.
    """

    def __init__(self, times: dict[int, int], die: Callable[[], None] = killed) -> None:
        self.die = die
        self.left = {index: CONTEXT.RawValue("i", count) for index, count in times.items()}
        self.num_runs = CONTEXT.RawArray("i", NUM_SAMPLES)

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: Any) -> torch.Tensor:
        number = index[1] if isinstance(index, tuple) else index
        self.num_runs[number] += 1
        if number in self.left and self.left[number].value:
            self.left[number].value -= 1
            self.die()
        return torch.full((8,), number)


def run(loader: DataLoader[Any]) -> tuple[list[list[int]], list[Exception]]:
    """All batches, as their first column, and all errors."""
    batches, errors = [], []
    iterator = iter(loader)
    while True:
        try:
            batches.append(next(iterator)[:, 0].tolist())
        except StopIteration:
            return batches, errors
        except Exception as error:
            errors.append(error)


@pytest.mark.parametrize("die", [killed, segfault, leave, abort])
@pytest.mark.parametrize("order", ["strict", "ready"])
def test_a_sample_whose_worker_died_once_is_run_again(order: str, die: Callable[[], None]) -> None:
    dataset = Deadly({4: 1, 9: 1}, die)
    loader = DataLoader(dataset, 3, num_workers=2, order=order, timeout=30)
    batches, errors = run(loader)
    assert not errors
    assert sorted(chain.from_iterable(batches)) == list(range(NUM_SAMPLES))
    if order == "strict":
        assert batches == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert dataset.num_runs[4] == dataset.num_runs[9] == 2
    assert loader.statistics().num_restarts == 2


@pytest.mark.parametrize(
    ("die", "word", "exit_code"),
    [
        (killed, "SIGKILL", -signal.SIGKILL),
        (segfault, "SIGSEGV", -signal.SIGSEGV),
        (abort, "SIGABRT", -signal.SIGABRT),
        (leave, "exit code 3", 3),
    ],
)
def test_a_second_death_names_the_sample_and_the_signal(
    die: Callable[[], None], word: str, exit_code: int
) -> None:
    dataset = Deadly({5: 99}, die)
    order = [7, 5, 3, 1, 0, 2, 4, 6, 8, 9, 10, 11]
    loader = DataLoader(dataset, 4, sampler=order, num_workers=2, order="ready", timeout=30)
    batches, errors = run(loader)
    (error,) = errors
    assert isinstance(error, WorkerDiedError)
    assert isinstance(error, SampleError)
    assert (error.position, error.index, error.exit_code) == (1, 5, exit_code)
    assert word in str(error)
    assert "index 5 (position 1)" in str(error)
    assert dataset.num_runs[5] == 2
    assert sorted(chain.from_iterable(batches)) == [
        index for index in range(NUM_SAMPLES) if index != 5
    ]


def test_in_strict_order_a_second_death_costs_its_batch_only() -> None:
    batches, errors = run(DataLoader(Deadly({5: 99}), 4, num_workers=2, order="strict", timeout=30))
    assert [type(error) for error in errors] == [WorkerDiedError]
    assert batches == [[0, 1, 2, 3], [8, 9, 10, 11]]


def test_an_index_of_any_type_is_named() -> None:
    keys = [("key", number) for number in range(NUM_SAMPLES)]
    loader = DataLoader(Deadly({5: 99}), 4, sampler=keys, num_workers=2, order="strict", timeout=30)
    _, errors = run(loader)
    assert "('key', 5)" in str(errors[0])


def test_a_batch_whose_collate_kills_twice_is_named_and_the_others_come() -> None:
    def collate(samples: list[torch.Tensor]) -> Any:
        if any(int(sample[0]) == 5 for sample in samples):
            killed()
        return default_collate(samples)

    dataset = Deadly({})
    loader = DataLoader(dataset, 4, num_workers=2, collate_fn=collate, order="strict", timeout=30)
    batches, errors = run(loader)
    (error,) = errors
    assert isinstance(error, WorkerDiedError)
    assert "collate_fn of positions [4, 5, 6, 7]" in str(error)
    assert "SIGKILL" in str(error)
    assert batches == [[0, 1, 2, 3], [8, 9, 10, 11]]


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_cheap_batch_whose_collate_kills_twice_is_named_and_given_up_as_a_whole(
    batch_size: int, order: str
) -> None:
    # Cheap samples that are no tensors are collated within their chunk.
    def collate(samples: list[str]) -> Any:
        if "sample 205" in samples:
            killed()
        return samples

    names = [f"sample {number}" for number in range(400)]
    loader: DataLoader[Any] = DataLoader(
        names,  # type: ignore[arg-type]
        batch_size,
        num_workers=2,
        collate_fn=collate,
        order=order,
        timeout=30,
    )
    iterator = iter(loader)
    came, errors = [], []
    while True:
        try:
            came += next(iterator)
        except StopIteration:
            break
        except Exception as error:
            errors.append(error)
    (error,) = errors
    assert isinstance(error, WorkerDiedError)
    positions = [205] if batch_size == 1 else [204, 205, 206, 207]
    assert f"collate_fn of positions {positions}" in str(error)
    assert (error.position, error.index) == (None, None)
    assert sorted(came) == sorted(set(names) - {names[position] for position in positions})


def test_workers_that_die_before_they_begin_end_the_epoch_with_an_error() -> None:
    def die_at_once(worker_id: int) -> None:
        os._exit(7)

    loader = DataLoader(
        Deadly({}), 4, num_workers=2, worker_init_fn=die_at_once, timeout=30, order="strict"
    )
    with pytest.raises(WorkerDiedError, match="worker_init_fn"):
        list(loader)


def test_a_system_exit_of_the_dataset_is_a_failed_sample_not_a_death() -> None:
    def leave_politely() -> None:
        sys.exit(4)

    dataset = Deadly({5: 99}, leave_politely)
    loader = DataLoader(dataset, 4, num_workers=2, order="ready", timeout=30)
    iterator = iter(loader)
    found, errors = [], []
    while True:
        try:
            found += next(iterator)[:, 0].tolist()
        except StopIteration:
            break
        except RuntimeError as error:
            errors.append(error)
    # Not raised as it is: a training script would end in silence, and with status 0.
    assert ["SystemExit(4)" in str(error) for error in errors] == [True]
    assert sorted(found) == [index for index in range(NUM_SAMPLES) if index != 5]
    assert loader.statistics().num_restarts == 0


def test_workers_killed_while_they_have_nothing_to_do_are_replaced() -> None:
    loader = DataLoader(
        Deadly({}),
        3,
        num_workers=2,
        order="strict",
        persistent_workers=True,
        prepare_next_epoch=False,
        timeout=30,
    )
    iterator = iter(loader)
    expected = [batch.tolist() for batch in iterator]
    # Not all children: other tests may have started servants, a resource tracker say.
    for process in list(iterator._pool._workers.values()):
        process.kill()
        # A zombie until the loader reaps it: wait for the death, not for the reaping.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert [batch.tolist() for batch in loader] == expected
    assert loader.statistics().num_restarts == 2
    del iterator
    loader._iterator = None


def test_a_worker_killed_with_the_lock_in_hand_stops_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_first = CONTEXT.RawValue("b", 1)
    real_main = pool.main

    def main(task: Any) -> None:
        if task.worker_id == 0 and is_first.value:
            is_first.value = 0
            task.commons.locked(0).__enter__()
            killed()
        real_main(task)

    monkeypatch.setattr(pool, "main", main)
    batches, errors = run(DataLoader(Deadly({}), 3, num_workers=2, order="strict", timeout=30))
    assert not errors
    assert batches == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
