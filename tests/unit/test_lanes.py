"""Slow samples get their own share of the workers: the loader's decisions, on a simulated clock."""

from __future__ import annotations

import numpy as np
import pytest

from hatchway.loader.costmodel import CostModel
from hatchway.loader.simulator.clock import Cores, Timeline
from hatchway.loader.simulator.place import Place
from hatchway.loader.simulator.reordering import HatchwayLoader
from hatchway.loader.simulator.setting import Costs, Setting
from tests.unit.test_adaptation import Loop

BATCH_SIZE = 4
FAST_S, SLOW_S = 0.01, 5.0
CHANGE = 800  # from this position on more samples are slow than before


def arrivals(slow: set[int], num_samples: int, **setting: int) -> list[float]:
    """When each batch came to a loop that takes them at once, on four workers."""
    times_s = [SLOW_S if i in slow else FAST_S for i in range(num_samples)]
    timeline = Timeline()
    made = Setting(num_workers=4, batch_size=BATCH_SIZE, costs=Costs(fork_s=0.012), **setting)
    indices = np.arange(num_samples, dtype=np.int64)
    place = Place(timeline, Cores(timeline, None), made, 0, times_s, indices)
    loader = HatchwayLoader(place, CostModel(num_samples), is_free=True)
    loop = Loop(loader, timeline, lambda _: 0.0, num_samples)
    loop.run()
    return [now_s for now_s, _ in loop.waits]


@pytest.mark.parametrize("every", [2, 3, 8])
def test_when_more_are_slow_than_expected_fast_ones_go_on_within_a_second(every: int) -> None:
    # Six at once: more than the four workers, and fewer than with those in the background.
    slow = set(range(CHANGE, CHANGE + 6 * every, every))
    came_s = arrivals(slow, CHANGE + 400)
    last = CHANGE // BATCH_SIZE - 1
    # As many batches as the fast samples in the window are enough for, one after the other.
    num_fast = 64 - 64 // every - BATCH_SIZE
    gaps = np.diff(came_s[last : last + num_fast // BATCH_SIZE])
    assert gaps.max() < 1.0 < SLOW_S


def test_without_workers_for_slow_samples_all_would_wait_for_them() -> None:
    slow = set(range(CHANGE, CHANGE + 12, 2))
    came_s = arrivals(slow, CHANGE + 400, max_background_workers=0)
    last = CHANGE // BATCH_SIZE - 1
    assert np.diff(came_s[last : last + 7]).max() > 0.9 * SLOW_S
