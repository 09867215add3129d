"""What is decided on one observation after another, and what ``"auto"`` accepts."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from hatchway import DataLoader
from hatchway.loader import options
from hatchway.loader.worker_count import AutoCount, Observation, WorkerCount

ITEMS: Any = list(range(8))


def seen(starved: float, rate: float = 100.0, **others: Any) -> Observation:
    """One second in which the loop starved for this share of it."""
    return Observation(1.0, starved, int(rate), **{"busy_s": 1.0, **others})


def told(count: WorkerCount, *observations: Observation) -> list[int]:
    return [count.decide(one, count.count) for one in observations]


def test_it_grows_by_what_is_missing_and_not_too_far_at_once() -> None:
    assert told(WorkerCount(8, 32), seen(0.25)) == [11]
    assert told(WorkerCount(4, 32), seen(0.9)) == [16]  # the cores are idle
    assert told(WorkerCount(4, 32), seen(0.9, cpu_s=1.2, num_cores=4.0)) == [8]
    assert told(WorkerCount(8, 12), seen(0.9)) == [12]


def test_growth_that_helps_goes_on_and_growth_that_does_not_is_taken_back() -> None:
    helps = WorkerCount(2, 32)
    assert told(helps, seen(0.9, 100), seen(0.9, 390), seen(0.9, 1300)) == [8, 32, 32]
    is_useless = WorkerCount(2, 32)
    assert told(is_useless, seen(0.9, 100), seen(0.9, 104), seen(0.9, 100)) == [8, 2, 2]
    assert is_useless.reason == "more were no faster"
    # After ten seconds it is tried again, then after twenty more.
    assert told(is_useless, *[seen(0.9, 100)] * 12).count(8) == 1


def test_few_samples_judge_nothing() -> None:
    assert told(WorkerCount(2, 64), seen(0.9, 5), seen(0.9, 5), seen(0.9, 5)) == [8, 32, 64]


def test_workers_that_compute_are_no_more_than_cores_are_left_for_them() -> None:
    busy = seen(0.9, cpu_s=1.9, num_cores=2.0)
    count = WorkerCount(2, 32)
    assert told(count, busy, busy) == [2, 2]
    assert count.reason == "no core is free"
    half = seen(0.9, cpu_s=1.0, num_cores=2.0)
    assert told(WorkerCount(2, 32), half) == [4]


def test_workers_that_wait_for_a_core_are_let_go_once_that_is_sure() -> None:
    crowd = seen(0.9, num_runnable=16, num_cores=2.0)
    assert told(WorkerCount(16, 32), crowd, seen(0.0), crowd, crowd) == [16, 16, 16, 8]


def test_memory_bounds_it() -> None:
    count = WorkerCount(4, 32)
    assert told(count, seen(0.9, most=lambda: 5), seen(0.9, 200, most=lambda: 5)) == [5, 5]
    assert count.reason == "no memory for more"


def test_idle_workers_are_let_go_after_a_while_and_not_all_at_once() -> None:
    count = WorkerCount(32, 32)
    calm = [seen(0.0, busy_s=2.0)] * 16
    decided = told(count, *calm)
    assert decided[:2] == [32, 32]
    assert 16 in decided
    assert decided[-1] == 4  # two are at work; a quarter more, and one


def test_what_was_wrong_to_take_away_is_not_taken_away_again_soon() -> None:
    count = WorkerCount(16, 32)
    told(count, *[seen(0.0, busy_s=8.0)] * 3)
    assert count.count == 11
    told(count, seen(0.3, 200))
    assert count.count == 16
    assert set(told(count, *[seen(0.0, busy_s=8.0)] * 9)) == {16}


def test_between_starved_and_calm_nothing_changes() -> None:
    assert set(told(WorkerCount(8, 32), *[seen(0.01, busy_s=1.0)] * 20)) == {8}


def test_what_was_not_started_since_the_loop_did_not_wait_was_not_needed() -> None:
    count = WorkerCount(4, 32)
    assert count.decide(seen(0.9), 4) == 16
    assert count.decide(seen(0.0), 5) == 5


def test_auto_is_an_int_that_stays_automatic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "cpu_quota", lambda: 2.5)
    loader: Any = DataLoader(ITEMS, num_workers="auto")
    assert loader.num_workers == 2
    assert repr(loader.num_workers) == "'auto'"
    again: Any = DataLoader(ITEMS, num_workers=loader.num_workers, max_workers=5)
    assert isinstance(again.num_workers, AutoCount)
    assert again.worker_count is not None
    assert isinstance(copy.copy(loader.num_workers), AutoCount)
    assert isinstance(pickle.loads(pickle.dumps(loader.num_workers)), AutoCount)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_it_begins_with_what_cores_memory_and_the_bound_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(options, "cpu_quota", lambda: 16.0)
    assert DataLoader(ITEMS, num_workers="auto").num_workers == 16
    assert options.most_workers(DataLoader(ITEMS, num_workers="auto")) == 32
    assert DataLoader(ITEMS, num_workers="auto", max_workers=3).num_workers == 3
    monkeypatch.setattr(options, "available_memory_bytes", lambda: 1 << 30)
    assert DataLoader(ITEMS, num_workers="auto").num_workers == 4
    monkeypatch.setattr(options, "cpu_quota", lambda: 0.5)
    assert DataLoader(ITEMS, num_workers="auto").num_workers == 1


def test_another_word_is_no_number() -> None:
    with pytest.raises(TypeError, match="num_workers must be an int or 'auto', not 'many'"):
        DataLoader(ITEMS, num_workers="many")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_workers": 2, "max_workers": 4}, "max_workers=4 bounds num_workers='auto', and"),
        ({"num_workers": "auto", "max_workers": 0}, "max_workers must be at least 1, not 0"),
        (
            {"num_workers": "auto", "max_background_workers": 1},
            "max_background_workers=1 has no meaning with num_workers='auto'",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataLoader(ITEMS, **arguments)
