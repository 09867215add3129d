"""What one worker takes from another's chunk is run, even if the thief dies of it."""

from __future__ import annotations

import pytest

from hatchway.loader import native
from tests.property.epochs import Epochs
from tests.property.setting import Setting

pytestmark = pytest.mark.skipif(native.MODULE is None, reason="no native module is built")

# The native loop notes the real time, which goes on while the simulated one stands.
LONGER_THAN_A_VISIT_S = 10.0
SETTING = Setting(num_samples=48, batch_size=12)


def unbegun(epochs: Epochs, worker_id: int) -> int:
    """How many samples of its chunk a worker has not begun."""
    span = epochs.board.span.cells[worker_id]
    return max(0, (span & 0xFFFFFFFF) - (span >> 32))


def with_a_chunk_in_hand(*, is_begun: bool) -> Epochs:
    """Worker 0 holds still, before or in the first sample of a chunk of several."""
    epochs = Epochs(SETTING)
    state = "sample" if is_begun else "unlocked"
    while unbegun(epochs, 0) < 2 or epochs.crew.actors[0].state != state:
        epochs.crew.step(0)
    return epochs


@pytest.mark.parametrize("is_begun", [True, False])
def test_what_waits_behind_a_slow_sample_is_run_by_others(is_begun: bool) -> None:
    epochs = with_a_chunk_in_hand(is_begun=is_begun)
    try:
        epochs.crew.wait(LONGER_THAN_A_VISIT_S)
        before = unbegun(epochs, 0)
        while epochs.crew.can_step(1):
            epochs.crew.step(1)
        assert unbegun(epochs, 0) == 0 < before
        epochs.run_out()
        epochs.check_epoch()
        epochs.check_memory()
    finally:
        epochs.close()


@pytest.mark.parametrize("is_begun", [True, False])
def test_a_thief_that_dies_before_any_line_loses_nothing(is_begun: bool) -> None:
    num_lines = 0
    while True:
        epochs = with_a_chunk_in_hand(is_begun=is_begun)
        try:
            epochs.crew.wait(LONGER_THAN_A_VISIT_S)
            thief = epochs.crew.actors[1]
            thief.kill_before_line(num_lines)
            while thief.alive and thief.state != "sample":
                epochs.crew.step(1)
            has_survived = thief.alive
            epochs.run_whole(1)
        except AssertionError as error:
            raise AssertionError(f"after a death at {thief.died_at}: {error}") from error
        finally:
            epochs.close()
        if has_survived:
            return
        num_lines += 1
