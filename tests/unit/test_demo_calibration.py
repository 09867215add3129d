"""How the demo paces its stand-in and fits into its time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hatchway.cli.demo.calibration import (
    Plan,
    SampleCost,
    choose_plan,
    choose_workers,
    measure,
)
from tests.unit.test_demo_volumes import dataset

COST = SampleCost(anywhere_s=0.01, foreground_s=0.2, oversampling=0.4, num_measured=48)


@pytest.fixture(autouse=True)
def keep_the_global_generator() -> Iterator[None]:
    state = np.random.get_state()
    yield
    np.random.set_state(state)


def plan(epoch_s: float, seconds_left: float) -> Plan:
    return choose_plan(epoch_s, 210, seconds_left=seconds_left, num_loaders=4, batch_size=2)


def test_the_mean_weighs_both_ways_of_cropping_by_their_share() -> None:
    assert COST.mean_s == pytest.approx(0.4 * 0.2 + 0.6 * 0.01)


def test_demand_equals_capacity() -> None:
    assert COST.batch_s(2, 2) == pytest.approx(COST.mean_s)
    assert COST.batch_s(4, 8) == pytest.approx(COST.mean_s / 2)


def test_as_many_epochs_run_as_fit_but_no_more_than_two() -> None:
    assert plan(8.0, 60.0) == Plan(210, 1)
    assert plan(8.0, 90.0) == Plan(210, 2)
    assert plan(8.0, 900.0) == Plan(210, 2)


@pytest.mark.parametrize("seconds_left", [-5.0, 0.0, 1.0, 10.0, 40.0])
def test_on_a_slow_machine_fewer_cases_run_in_whole_batches(seconds_left: float) -> None:
    chosen = plan(30.0, seconds_left)
    assert chosen.num_epochs == 1
    assert 8 <= chosen.num_cases < 210
    assert chosen.num_cases % 2 == 0


def test_a_small_data_set_is_never_exceeded() -> None:
    chosen = choose_plan(100.0, 6, seconds_left=1.0, num_loaders=4, batch_size=2)
    assert chosen == Plan(6, 1)


@pytest.mark.parametrize(("step_s", "workers"), [(1.0, 2), (0.05, 4), (0.001, 16)])
def test_a_gpu_gets_as_many_workers_as_keep_up_with_it(step_s: float, workers: int) -> None:
    assert choose_workers(COST, step_s=step_s, batch_size=2, num_cpus=16) == workers


def test_there_are_never_fewer_than_two_workers() -> None:
    assert choose_workers(COST, step_s=0.01, batch_size=2, num_cpus=1) == 2


def test_each_chosen_case_is_timed_both_ways_in_the_workers(tmp_path: Path) -> None:
    told = []
    cost = measure(
        dataset(tmp_path), [0, 3, 5], num_workers=2, seed=0, on_sample=lambda: told.append(1)
    )
    assert cost.num_measured == len(told) == 6
    assert cost.anywhere_s > 0
    assert cost.foreground_s > 0
    assert cost.oversampling == 0.4
