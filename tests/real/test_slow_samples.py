"""A slow sample stalls nobody else in ``ready``, and keeps its turn in ``strict``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import pytest

from hatchway import DataLoader
from hatchway.loader import LoaderTimeoutError
from tests.real.gates import CONTEXT, PATIENCE_S, Gated, numbers

pytestmark = pytest.mark.real


def ready(dataset: Gated, **arguments: Any) -> DataLoader[Any]:
    chosen: dict[str, Any] = {
        "num_workers": 2,
        "order": "ready",
        "slow_after_s": 0.02,
        "timeout": PATIENCE_S,
        "multiprocessing_context": CONTEXT,
    }
    return DataLoader(dataset, **(chosen | arguments))


def test_no_fast_sample_waits_behind_slow_ones_that_hold_all_workers() -> None:
    dataset = Gated(40, held={0, 1})
    loader = ready(dataset, batch_size=4)
    iterator = iter(loader)
    # Nine full batches are all that the 38 other samples make.
    first = [numbers(next(iterator)) for _ in range(9)]
    assert not dataset.gate.is_set()
    assert not {0, 1} & {number for batch in first for number in batch}
    dataset.gate.set()
    last = [numbers(batch) for batch in iterator]
    assert len(last) == 1
    assert {0, 1} < set(last[0])
    assert sorted(number for batch in first + last for number in batch) == list(range(40))
    assert loader.statistics().num_background_workers >= 1


def test_fast_samples_go_on_in_a_long_step_when_another_slow_one_comes() -> None:
    # The second slow sample is planned in the step: the loop cannot start a worker then.
    # (39, 38 and 37 wait for 13, 14 and 15: so these tell when they ended.)
    dataset = Gated(40, held={0, 12}, after={39: 13, 38: 14, 37: 15})
    iterator = iter(ready(dataset, batch_size=4, prefetch_factor=1))
    next(iterator)
    time.sleep(0.1)  # sample 0 is slow now, as the loop sees when it asks again
    next(iterator)
    for number in (13, 14, 15):
        assert dataset.ended[number].wait(PATIENCE_S), "slow samples hold all workers"
    dataset.gate.set()
    assert sum(len(numbers(batch)) for batch in iterator) == 32


def test_a_slow_sample_finishes_where_it_began_and_is_not_run_again() -> None:
    dataset = Gated(40, held={0, 1, 17})
    iterator = iter(ready(dataset, batch_size=4))
    for _ in range(9):
        next(iterator)
    dataset.gate.set()
    assert len(list(iterator)) == 1
    assert list(dataset.num_runs) == [1] * 40


def test_a_worker_that_is_free_is_enough_and_no_other_is_started() -> None:
    dataset = Gated(24, held={5})
    # What the machine makes slow does not count: only sample 5 is ever slow.
    loader = ready(dataset, batch_size=4, slow_after_s=PATIENCE_S)
    iterator = iter(loader)
    first = [numbers(next(iterator)) for _ in range(5)]
    assert all(5 not in batch for batch in first)
    dataset.gate.set()
    assert [len(numbers(batch)) for batch in iterator] == [4]
    assert loader.statistics().num_background_workers == 0


def test_the_last_lone_sample_of_an_epoch_joins_what_slow_ones_left_open() -> None:
    dataset = Gated(9, held={0})
    iterator = iter(ready(dataset, batch_size=4))
    first = [numbers(next(iterator)) for _ in range(2)]
    dataset.gate.set()
    assert sorted(number for batch in first for number in batch) == list(range(1, 9))
    assert [numbers(batch) for batch in iterator] == [[0]]


def test_single_samples_overtake_where_there_are_no_batches() -> None:
    dataset = Gated(12, held={0, 3})
    loader = ready(dataset, batch_size=None)
    iterator = iter(loader)
    first = [int(next(iterator)) for _ in range(10)]
    assert sorted(first) == [1, 2, *range(4, 12)]
    dataset.gate.set()
    assert sorted(int(sample) for sample in iterator) == [0, 3]


def test_whole_batches_of_a_batch_sampler_overtake_in_ready_order() -> None:
    batches = [[0, 1], [2, 3, 4], [5], [6, 7], [8, 9, 10, 11]]
    dataset = Gated(12, held={1, 3})
    loader = ready(dataset, batch_sampler=batches)
    iterator = iter(loader)
    first = [numbers(next(iterator)) for _ in range(3)]
    assert sorted(first) == [[5], [6, 7], [8, 9, 10, 11]]
    dataset.gate.set()
    assert sorted(map(numbers, iterator)) == [[0, 1], [2, 3, 4]]
    assert list(dataset.num_runs) == [1] * 12


@pytest.mark.parametrize(
    "batches",
    [
        {"batch_size": 4},
        {"batch_size": None},
        {"batch_sampler": [[0, 1, 2], [3], [4, 5, 6, 7], [8, 9, 10, 11]]},
    ],
    ids=str,
)
def test_in_strict_order_later_samples_run_meanwhile_and_wait_for_their_turn(
    batches: dict[str, Any],
) -> None:
    # Sample 0 ends only after sample 3 has run: in its own batch or in the next.
    dataset = Gated(12, after={0: 3})
    loader = ready(dataset, order="strict", **batches)
    delivered = [number for batch in loader for number in numbers(batch)]
    assert delivered == list(range(12))
    assert list(dataset.num_runs) == [1] * 12


def test_in_strict_order_a_whole_batch_runs_behind_a_slow_sample() -> None:
    dataset = Gated(16, after={0: 7})
    loader = ready(dataset, order="strict", batch_size=4)
    assert [numbers(batch) for batch in loader] == [[*range(n, n + 4)] for n in range(0, 16, 4)]


def test_more_slow_samples_than_workers_allowed_wait_and_the_timeout_names_them() -> None:
    dataset = Gated(16, held={0, 1})
    loader = ready(dataset, batch_size=4, max_background_workers=0, timeout=1)
    iterator = iter(loader)
    with pytest.raises(LoaderTimeoutError) as caught:
        next(iterator)
    for said in ("timed out after 1 seconds", "dataset index 0", "dataset index 1"):
        assert said in str(caught.value)
    dataset.gate.set()
    assert sorted(number for batch in iterator for number in numbers(batch)) == list(range(16))


def test_without_native_code_batches_and_single_samples_overtake_all_the_same() -> None:
    tests = "tests/real/test_slow_samples.py"
    names = (
        "test_no_fast_sample_waits_behind_slow_ones_that_hold_all_workers",
        "test_whole_batches_of_a_batch_sampler_overtake_in_ready_order",
        "test_single_samples_overtake_where_there_are_no_batches",
        "test_in_strict_order_a_whole_batch_runs_behind_a_slow_sample",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        + [f"{tests}::{name}" for name in names],
        env=os.environ | {"HATCHWAY_PURE_PYTHON": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
