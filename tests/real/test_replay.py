"""A pass in ready order is had once more, batch for batch, from its record."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from hatchway import DataLoader
from hatchway.loader import StateError
from tests.real.resumable import BATCH, NUM_SAMPLES, Noisy, make, rows_of, seeded, stop


def _recorded(**arguments: Any) -> tuple[list[Any], dict[str, Any]]:
    loader = make("generator", order="ready", record_order=True, **arguments)
    batches = [rows_of([batch]) for batch in loader]
    return batches, loader.state_dict()


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_same_batches_in_the_same_order(num_workers: int, tmp_path: Path) -> None:
    batches, state = _recorded(num_workers=2)
    assert sorted(row[0] for batch in batches for row in batch) == list(range(NUM_SAMPLES))
    torch.manual_seed(77)
    torch.save(state, tmp_path / "state")
    for source in (state, tmp_path / "state", str(tmp_path / "state")):
        again = make("generator", order="ready", num_workers=num_workers, replay=source)
        assert [rows_of([batch]) for batch in again] == batches
        assert sorted(row[0] for row in rows_of(again)) == list(range(NUM_SAMPLES))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("cut", [1, 5, 13])
def test_a_replay_that_was_saved_goes_on_with_it(cut: int, num_workers: int) -> None:
    batches, state = _recorded(num_workers=2)
    first = make("generator", order="ready", num_workers=2, replay=state, record_order=True)
    found = [rows_of([batch]) for batch in itertools.islice(first, cut)]
    second = make(
        "generator", order="ready", num_workers=num_workers, replay=state, record_order=True
    )
    second.load_state_dict(first.state_dict())
    found += [rows_of([batch]) for batch in second]
    assert found == batches
    assert second.state_dict()["order"]["record"] == state["order"]["record"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_pass_that_was_saved_after_its_recorded_part_goes_on(num_workers: int) -> None:
    whole = make("generator", order="ready", num_workers=2, record_order=True)
    list(itertools.islice(whole, 5))
    first = make("generator", order="ready", num_workers=num_workers, replay=whole.state_dict())
    found = rows_of(itertools.islice(first, 8))
    second = make("generator", order="ready", num_workers=2)
    second.load_state_dict(first.state_dict())
    found += rows_of(second)
    assert sorted(row[0] for row in found) == list(range(NUM_SAMPLES))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_taken", [0, 4])
def test_a_script_that_is_started_again_replays_once(num_workers: int, num_taken: int) -> None:
    batches, state = _recorded(num_workers=2)

    def build() -> DataLoader[Any]:
        return make("generator", order="ready", num_workers=num_workers, replay=state)

    whole = build()
    assert [rows_of([batch]) for batch in whole] == batches
    second_pass = sorted(rows_of(whole))
    before = build()
    restarted = build()
    restarted.load_state_dict(before.state_dict())  # nothing was replayed yet
    assert [rows_of([batch]) for batch in restarted] == batches
    seen = rows_of(itertools.islice(restarted, num_taken))
    again = build()
    again.load_state_dict(restarted.state_dict())
    assert sorted(seen + rows_of(again)) == second_pass


def test_a_pass_that_was_saved_in_the_middle_is_recorded_whole() -> None:
    first = make("generator", order="ready", num_workers=2, record_order=True)
    batches = [rows_of([batch]) for batch in itertools.islice(first, 5)]
    second = make("generator", order="ready", num_workers=2, record_order=True)
    second.load_state_dict(first.state_dict())
    batches += [rows_of([batch]) for batch in second]
    again = make("generator", order="ready", num_workers=2, replay=second.state_dict())
    assert [rows_of([batch]) for batch in again] == batches


def test_a_record_of_a_part_is_followed_by_the_rest() -> None:
    first = make("generator", order="ready", num_workers=2, record_order=True)
    batches = [rows_of([batch]) for batch in itertools.islice(first, 5)]
    state = first.state_dict()
    for num_workers in (0, 2):
        again = make("generator", order="ready", num_workers=num_workers, replay=state)
        found = [rows_of([batch]) for batch in again]
        assert found[:5] == batches
        assert sorted(row[0] for batch in found for row in batch) == list(range(NUM_SAMPLES))


def test_each_pass_of_persistent_workers_is_recorded_on_its_own() -> None:
    loader = make(
        "generator", order="ready", record_order=True, num_workers=2, persistent_workers=True
    )
    rows_of(loader)
    batches = [rows_of([batch]) for batch in loader]
    state = loader.state_dict()
    stop(loader)
    again = make("generator", order="ready", num_workers=2, replay=state)
    assert [rows_of([batch]) for batch in again] == batches


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"order": "strict"}, "order='ready'"),
        ({"batch_size": 5}, "batch_size 4, this loader has 5"),
        ({"order": "ready", "generator": torch.Generator().manual_seed(1)}, "generator seed"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(arguments: dict[str, Any], said: str) -> None:
    _, state = _recorded(num_workers=1)
    with pytest.raises(StateError, match=said):
        iter(make("generator", num_workers=1, replay=state, **arguments))


def test_a_state_without_a_record_is_refused() -> None:
    state = make("generator", order="ready").state_dict()
    with pytest.raises(StateError, match="record_order=True"):
        iter(make("generator", order="ready", replay=state))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_record_of_more_than_the_sampler_yields_is_refused(num_workers: int) -> None:
    _, state = _recorded(num_workers=1)
    state = copy.deepcopy(state)
    state["order"]["record"][-1] = [500, 501]
    again = make("generator", order="ready", num_workers=num_workers, replay=state, timeout=0)
    with pytest.raises(StateError, match="position 500") as caught:
        list(again)
    del caught


def test_the_record_of_an_order_without_displacement_is_short() -> None:
    loader = DataLoader(
        Noisy(), BATCH, shuffle=True, order="strict", record_order=True, generator=seeded()
    )
    rows_of(loader)
    record = loader.state_dict()["order"]["record"]
    assert record == [[at, min(at + BATCH, NUM_SAMPLES)] for at in range(0, NUM_SAMPLES, BATCH)]
