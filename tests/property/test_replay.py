"""A recorded order is replayed exactly, whoever runs first and whatever goes wrong."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatchway.loader.errors import StateError
from hatchway.loader.script import Script, decoded, encoded
from tests.property.epochs import Epochs
from tests.property.setting import Setting
from tests.property.test_any_interleaving import all_settings


@st.composite
def all_orders(draw: st.DrawFn) -> list[list[int]]:
    """Batches of ranks, each rank at most once, sorted within a batch."""
    ranks = draw(st.lists(st.integers(0, 40), unique=True))
    size = draw(st.integers(1, 6))
    return [sorted(ranks[at : at + size]) for at in range(0, len(ranks), size)]


@given(order=all_orders())
def test_an_order_survives_being_written_down(order: list[list[int]]) -> None:
    batches = [np.array(one, np.int64) for one in order]
    assert [one.tolist() for one in decoded(encoded(batches))] == order
    script = Script(batches)
    for turn, ranks in enumerate(order):
        for rank in ranks:
            assert script.turns_of(rank, 1).tolist() == [turn]
    for num_samples in range(42):
        known = 0
        while known < len(order) and all(rank < num_samples for rank in order[known]):
            known += 1
        assert script.num_known(num_samples) == known
    assert script.turns_of(39, 5).tolist()[2:] == [-1, -1, -1]


@pytest.mark.parametrize("batches", [[[0]], [[0, 2], [1, 3]], [[-1, 2]], "no", [["a", "b"]], 3])
def test_a_damaged_record_is_refused(batches: object) -> None:
    with pytest.raises(StateError, match="recorded order is damaged"):
        decoded(batches)


@given(
    setting=all_settings(),
    seed=st.integers(0, 2**32),
    num_workers=st.integers(1, 3),
    window=st.integers(2, 4),
    cut=st.one_of(st.none(), st.integers(0, 40)),
)
def test_a_pass_is_replayed_whoever_runs_first(
    setting: Setting, seed: int, num_workers: int, window: int, cut: int | None
) -> None:
    choose = random.Random(seed).randrange
    setting = replace(setting, order="ready", failing=frozenset(), foresees="nothing")
    recorded = Epochs(setting)
    try:
        recorded.run_out(choose)
    finally:
        recorded.close()
    script = Script([np.array(one, np.int64) for one in recorded.batches])
    setting = replace(setting, num_workers=num_workers, window=window)
    again = Epochs(setting, script=script)
    batches: list[list[int]] = []
    try:
        if cut is not None:  # saved in the middle, and gone on with
            for _ in range(cut):
                again.step_someone(choose)
            batches, state = again.batches, again.state()
            again.close()
            again = Epochs(setting, state, script)
        again.run_out(choose)
        assert batches + again.batches == recorded.batches
        again.check_running()
        again.reset()
        again.run_whole(1, choose)
    finally:
        again.close()


def test_what_was_not_recorded_comes_after_what_was() -> None:
    script = Script([np.array([4, 7, 8]), np.array([0, 1, 2])])
    epochs = Epochs(Setting(order="ready", num_samples=12, num_workers=3), script=script)
    try:
        epochs.run_out(random.Random(4).randrange)
        assert epochs.batches[:2] == [[4, 7, 8], [0, 1, 2]]
        epochs.check_epoch()
    finally:
        epochs.close()


def test_a_failure_in_a_recorded_batch_leaves_alone() -> None:
    script = Script([np.array([0, 1, 4]), np.array([2, 3, 5])])
    setting = Setting(order="ready", num_samples=6, failing=frozenset({1}))
    epochs = Epochs(setting, script=script)
    try:
        epochs.run_out(random.Random(4).randrange)
        assert (epochs.batches, epochs.failed) == ([[0, 4], [2, 3, 5]], [1])
    finally:
        epochs.close()
