"""Workers that are asked to leave, and others that come, lose and repeat no sample."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatchway.loader.board import Alive, Head
from tests.property.epochs import Epochs
from tests.property.setting import Setting
from tests.property.test_any_interleaving import all_settings

MOST_DEATHS = 2


class Turnover:
    """Lets workers go, starts some and kills some, between two steps of the others."""

    def __init__(self, epochs: Epochs, choices: random.Random) -> None:
        self._epochs = epochs
        self._random = choices
        self._deaths_left = MOST_DEATHS

    def change(self) -> None:
        crew, alive = self._epochs.crew, self._epochs.board.alive.cells
        running = [i for i, actor in crew.actors.items() if actor.alive]
        here = [i for i in running if alive[i] == Alive.HERE]
        free = set(range(self._epochs.setting.num_workers)) - set(crew.actors)
        what = self._random.choice(("retire", "retire", "start", "start", "kill"))
        if what == "retire" and len(here) > 1:
            crew.pool.retire(self._random.choice(here))
        elif what == "start" and free:
            crew.start(self._random.choice(sorted(free)))
        elif what == "kill" and running and self._deaths_left and not crew.gate.held:
            self._deaths_left -= 1
            crew.kill(self._random.choice(running))
        else:
            return
        self._epochs.board.head[Head.NUM_SEATS] = max(1, len(here))
        if not crew.gate.held:
            self._epochs.replace_dead()


@given(setting=all_settings(), seed=st.integers(0, 2**32), num_epochs=st.integers(1, 3))
def test_each_epoch_is_whole_whoever_comes_and_goes(
    setting: Setting, seed: int, num_epochs: int
) -> None:
    choices = random.Random(seed)
    epochs = Epochs(replace(setting, num_workers=setting.num_workers + 2))
    turnover = Turnover(epochs, choices)
    try:
        for number in range(num_epochs):
            if number:
                epochs.reset()
            for _ in range(choices.randrange(100)):
                if choices.random() < 0.15:
                    turnover.change()
                epochs.step_someone(choices.randrange)
            epochs.run_out(choices.randrange)
            epochs.check_running()
            epochs.check_epoch()
        epochs.check_memory()
    finally:
        epochs.close()


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("order", ["strict", "overtaking", "ready"])
@pytest.mark.parametrize("num_steps", range(4, 20))
def test_a_worker_leaves_after_what_it_is_at(num_steps: int, order: str, pure: bool) -> None:
    setting = Setting(order=order, num_samples=30, num_workers=3, window=4, pure=pure)
    epochs = Epochs(setting)
    loaded: list[int] = []
    load = epochs.crew._load
    epochs.crew._load = lambda key: (loaded.append(key), load(key))[1]
    try:
        for _ in range(num_steps):
            epochs.step_someone(random.Random(1).randrange)
        epochs.crew.pool.retire(2)
        epochs.board.head[Head.NUM_SEATS] = 2
        epochs.run_out(random.Random(2).randrange)
        assert 2 not in epochs.crew.actors or epochs.crew.actors[2].state == "ended"
        epochs.replace_dead()
        assert sorted(epochs.crew.actors) == [0, 1]
        assert sorted(loaded) == list(range(30)), "a sample was made twice"
        assert (epochs.meter.num_retired, epochs.meter.num_restarts) == (1, 0)
        epochs.check_epoch()
        epochs.check_memory()
    finally:
        epochs.close()
