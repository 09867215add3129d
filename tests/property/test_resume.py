"""A pass that was saved at any moment goes on with exactly what was not delivered."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatchway.loader.errors import StateError
from hatchway.loader.progress import Progress
from tests.property.epochs import Epochs
from tests.property.setting import Setting
from tests.property.test_any_interleaving import all_settings


@given(st.lists(st.permutations(range(12)), min_size=1, max_size=1), st.integers(0, 12))
def test_progress_knows_what_was_delivered(orders: list[list[int]], num: int) -> None:
    progress, delivered = Progress(), orders[0][:num]
    for at in range(0, num, 3):
        progress.deliver(np.array(sorted(delivered[at : at + 3]), np.int64))
    again = Progress(progress.ranges())
    for one in (progress, again):
        assert one.num_delivered == num
        assert one.lowest == min(set(range(13)) - set(delivered))
        assert one.delivered_of(2, 8).tolist() == sorted(set(range(2, 10)) & set(delivered))
        assert one.is_prefix == (sorted(delivered) == list(range(num)))
    assert again.ranges() == progress.ranges()


@given(
    setting=all_settings(),
    seed=st.integers(0, 2**32),
    num_steps=st.lists(st.integers(0, 60), min_size=1, max_size=3),
    num_workers=st.integers(1, 3),
    window=st.integers(2, 4),
)
def test_each_epoch_is_whole_however_often_it_was_saved_and_went_on(
    setting: Setting, seed: int, num_steps: list[int], num_workers: int, window: int
) -> None:
    choose = random.Random(seed).randrange
    epochs = Epochs(setting)
    for steps in num_steps:
        try:
            for _ in range(steps):
                epochs.step_someone(choose)
            state, failed = epochs.state(), epochs.failed
        finally:
            epochs.close()
        setting = replace(setting, num_workers=num_workers, window=window)
        epochs = Epochs(setting, state)
        epochs.failed += failed
    try:
        epochs.run_out(choose)
        epochs.check_running()
        epochs.check_epoch()
        epochs.reset()
        epochs.run_whole(1, choose)
    finally:
        epochs.close()


def test_a_sampler_with_another_order_is_refused() -> None:
    epochs = Epochs(Setting(num_samples=20))
    choose = random.Random(0).randrange
    try:
        while len(epochs.delivered) < 6:
            epochs.step_someone(choose)
        state = epochs.state()
    finally:
        epochs.close()
    for other in (
        Progress(state.ranges(), state.num_homes, 12345),
        Progress(state.ranges(), state.num_homes + 20, state.digest),
    ):
        with pytest.raises(StateError, match="does not yield what it yielded"):
            Epochs(Setting(num_samples=20), other)
