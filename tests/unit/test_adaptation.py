"""``num_workers="auto"`` on a simulated clock: the live loader's decisions, without noise."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hatchway.loader.board import Head
from hatchway.loader.costmodel import CostModel
from hatchway.loader.simulator.clock import Cores, Timeline
from hatchway.loader.simulator.place import Place
from hatchway.loader.simulator.reordering import HatchwayLoader
from hatchway.loader.simulator.setting import Costs, Setting

BATCH_SIZE = 16
FORK_S = 0.012


@dataclass
class Loop:
    """A training loop whose step takes ``step_s(now_s)``; notes what it saw.

    Attributes:
        history: (time, workers that there should be, workers that there are).
        waits: (time, seconds waited) of each batch.
        came: Every position, as it came.
    """

    loader: HatchwayLoader
    timeline: Timeline
    step_s: Callable[[float], float]
    num_left: int
    history: list[tuple[float, int, int]] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)
    came: list[int] = field(default_factory=list)
    _asked_s: float = 0.0

    def run(self) -> None:
        self.loader.begin()
        self._ask()
        self.timeline.run()

    def _ask(self) -> None:
        self._asked_s = self.timeline.now_s
        self.loader.ask(self._take)

    def _take(self, ranks: NDArray[np.int64]) -> None:
        now_s = self.timeline.now_s
        self.came += ranks.tolist()
        self.num_left -= len(ranks)
        self.waits.append((now_s, now_s - self._asked_s))
        seats = self.loader._board.head[Head.NUM_SEATS]
        self.history.append((now_s, seats, self.loader.size()))
        if self.num_left:
            self.timeline.after(self.step_s(now_s), self._ask)

    def workers_between(self, begin_s: float, end_s: float) -> list[int]:
        """How many workers there were at each batch of a time."""
        return [size for now_s, _, size in self.history if begin_s <= now_s < end_s]

    def waited_share(self, begin_s: float, end_s: float) -> float:
        """The share of a time that the loop waited."""
        return sum(wait for now_s, wait in self.waits if begin_s <= now_s < end_s) / (
            end_s - begin_s
        )


def run(
    times_s: list[float],
    step_s: Callable[[float], float],
    *,
    num_cores: float | None = None,
    start: int = 2,
    most: int = 32,
    order: str = "ready",
    boot_s: float = 0.0,
) -> Loop:
    setting = Setting(
        num_workers=start,
        max_workers=most,
        batch_size=BATCH_SIZE,
        num_cores=num_cores,
        costs=Costs(fork_s=FORK_S, boot_s=boot_s),
    )
    timeline = Timeline()
    cores = Cores(timeline, num_cores)
    indices = np.arange(len(times_s), dtype=np.int64)
    place = Place(timeline, cores, setting, 0, times_s, indices)
    loader = HatchwayLoader(place, CostModel(len(times_s)), is_free=order == "ready")
    loop = Loop(loader, timeline, step_s, len(times_s))
    loop.run()
    assert sorted(loop.came) == list(range(len(times_s))), "a sample was lost or came twice"
    return loop


def waiting_s(num_samples: int, mean_s: float = 0.04) -> list[float]:
    """Samples of which each fifth takes ten times as long as the others."""
    return [mean_s * (10 if i % 5 == 0 else 1) / 2.8 for i in range(num_samples)]


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_it_settles_within_ten_seconds_at_what_a_steady_load_needs(order: str) -> None:
    # 16 samples of 40 ms every 80 ms keep 8 workers busy.
    loop = run(waiting_s(8000), lambda _: 0.08, order=order)
    settled = loop.workers_between(10, 38)
    assert max(settled) - min(settled) <= 3
    assert min(settled) >= 8
    assert max(settled) <= 14
    assert loop.waited_share(10, 38) < 0.01


def test_it_takes_all_that_it_may_while_the_loop_waits() -> None:
    loop = run(waiting_s(12000), lambda _: 0.0)
    assert set(loop.workers_between(5, 14)) == {32}
    assert max(loop.workers_between(0, 100)) == 32


def test_it_follows_a_step_change_of_the_device_up_and_down() -> None:
    def step_s(now_s: float) -> float:
        return 0.25 if 15 <= now_s < 30 else 0.04

    loop = run(waiting_s(14000), step_s)
    fast, slow, again = ((10, 15), (25, 30), (38, 44))
    assert min(loop.workers_between(*fast)) >= 16
    assert max(loop.workers_between(*slow)) <= 8
    assert min(loop.workers_between(*again)) >= 16
    for begin_s, end_s in (fast, slow, again):
        assert loop.waited_share(begin_s, end_s) < 0.02


def test_where_samples_compute_there_are_no_more_workers_than_cores() -> None:
    loop = run([0.01] * 4000, lambda _: 0.0, num_cores=2)
    assert set(loop.workers_between(0, 100)) == {2}


def test_workers_that_only_share_the_cores_are_let_go() -> None:
    loop = run([0.01] * 6000, lambda _: 0.0, num_cores=2, start=16)
    assert loop.workers_between(0, 0.5)[-1] == 16
    assert max(loop.workers_between(10, 100)) <= 4


def test_samples_that_are_slower_than_a_period_get_workers_too() -> None:
    loop = run([6.0] * 320, lambda _: 0.0)
    assert loop.history[1][2] == 32  # by the second batch
    ideal_s = 320 * 6.0 / 32
    assert loop.timeline.now_s < ideal_s + 12


def test_workers_that_start_slowly_are_not_judged_before_they_work() -> None:
    # Two seconds, as where they are spawned: four times as long as between two decisions.
    loop = run(waiting_s(6000), lambda _: 0.0, boot_s=2.0)
    assert loop.workers_between(0, 100)[-1] == 32
    sizes = [size for _, _, size in loop.history]
    assert sizes == sorted(sizes), "some were let go"


def test_nothing_swings_on_a_steady_load() -> None:
    loop = run(waiting_s(24000), lambda _: 0.1)
    sizes = [seats for now_s, seats, _ in loop.history if now_s > 10]
    changes = sum(a != b for a, b in itertools.pairwise(sizes))
    assert changes <= 6


def test_a_bound_of_one_holds() -> None:
    loop = run(waiting_s(200), lambda _: 0.0, start=1, most=1)
    assert set(loop.workers_between(0, 1000)) == {1}


def test_the_setting_of_a_simulation_may_say_so() -> None:
    from hatchway.loader.simulator import simulate

    setting: Any = Setting(num_workers=2, max_workers=32, batch_size=BATCH_SIZE, step_s=0.0)
    fixed = Setting(num_workers=2, batch_size=BATCH_SIZE, step_s=0.0)
    times_s = waiting_s(4000)
    (auto,), (two,) = simulate("strict", times_s, setting), simulate("strict", times_s, fixed)
    assert two.epoch_s / auto.epoch_s > 8
