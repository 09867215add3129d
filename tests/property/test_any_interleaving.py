"""The loader keeps its promises under every interleaving, death and restart."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hatchway.loader import native
from tests.property.epochs import Epochs
from tests.property.setting import Setting

LONGEST_CHUNK_S = 0.01
MOST_DEATHS = 4


@st.composite
def all_settings(draw: st.DrawFn) -> Setting:
    num_samples = draw(st.integers(1, 14))
    return Setting(
        order=draw(st.sampled_from(["strict", "overtaking", "ready"])),
        num_samples=num_samples,
        batch_size=draw(st.integers(1, 5)),
        drop_last=draw(st.booleans()),
        num_workers=draw(st.integers(1, 3)),
        window=draw(st.integers(2, 4)),
        sample=draw(st.sampled_from(["row", "blob", "mixed"])),
        custom_collate=draw(st.booleans()),
        odd_keys=draw(st.booleans()),
        pure=draw(st.booleans()),
        patience_s=draw(st.sampled_from([0.0, 1e-9, 0.2])),
        leads=tuple(draw(st.lists(st.sampled_from([0, 0, 1, 3, 20]), max_size=num_samples))),
        max_displacement=draw(st.sampled_from([None, None, 0, 1, 4, 10])),
        foresees=draw(st.sampled_from(["nothing", "it", "another"])),
        failing=draw(st.frozensets(st.integers(0, num_samples - 1), max_size=2)),
    )


@given(setting=all_settings(), seed=st.integers(0, 2**32), num_epochs=st.integers(1, 3))
def test_each_epoch_is_whole_whoever_runs_first(
    setting: Setting, seed: int, num_epochs: int
) -> None:
    choose = random.Random(seed).randrange
    epochs = Epochs(setting)
    try:
        epochs.run_whole(num_epochs, choose)
    finally:
        epochs.close()


@pytest.mark.skipif(native.MODULE is None, reason="there is no native code here")
@pytest.mark.parametrize("order", ["strict", "overtaking", "ready"])
def test_each_native_turn_is_compared_with_its_twin(order: str) -> None:
    epochs = Epochs(Setting(order=order, num_samples=40, window=4, patience_s=1e-9))
    try:
        epochs.run_out(random.Random(2).randrange)
        compared = epochs.commons.kernel.compared
    finally:
        epochs.close()
    assert compared["plan"] == 14
    assert compared["next_work"] >= 5
    assert compared["consume"] >= 5
    assert compared["compose"] >= 1


@pytest.mark.parametrize("odd_keys", [False, True])
@pytest.mark.parametrize("order", ["strict", "overtaking", "ready"])
@pytest.mark.parametrize("num_steps", [0, 5, 25])
def test_an_epoch_that_is_given_up_leaves_no_block_behind(
    num_steps: int, order: str, odd_keys: bool
) -> None:
    epochs = Epochs(Setting(order=order, odd_keys=odd_keys, num_samples=30, window=4))
    choose = random.Random(num_steps).randrange
    try:
        for _ in range(4):
            for _ in range(num_steps):
                epochs.step_someone(choose)
            epochs.reset()
        epochs.run_out(choose)
        epochs.check_epoch()
        epochs.check_memory()
    finally:
        epochs.close()


@pytest.mark.parametrize("odd_keys", [False, True])
@pytest.mark.parametrize("custom_collate", [False, True])
@pytest.mark.parametrize("order", ["strict", "overtaking", "ready"])
def test_what_was_made_ahead_begins_the_next_epoch(
    order: str, custom_collate: bool, odd_keys: bool
) -> None:
    setting = Setting(
        order=order,
        num_samples=24,
        window=4,
        custom_collate=custom_collate,
        odd_keys=odd_keys,
        foresees="it",
    )
    epochs = Epochs(setting)
    try:
        epochs.run_out(random.Random(3).randrange)
        # Where indices are no plain ints nothing is made ahead.
        assert epochs.has_prepared is not odd_keys
        epochs.reset()
        assert epochs.num_adopted == 1
        epochs.run_whole(3, random.Random(3).randrange)
    finally:
        epochs.close()


def test_what_a_failure_left_is_not_overtaken_by_whole_batches_beyond_the_bound() -> None:
    setting = Setting(
        order="ready",
        num_samples=8,
        batch_size=2,
        num_workers=1,
        custom_collate=True,
        failing=frozenset({0}),
        max_displacement=0,
    )
    epochs = Epochs(setting)
    try:
        epochs.run_whole(2)
        assert epochs.batches == [[1, 2], [3, 4], [5, 6], [7]]
    finally:
        epochs.close()


class LoaderMachine(RuleBasedStateMachine):
    """Steps, deaths, naps, dropped batches and new epochs in any order."""

    epochs: Epochs | None = None
    num_deaths = 0

    @initialize(setting=all_settings())
    def start(self, setting: Setting) -> None:
        self.epochs = Epochs(setting)

    @rule(which=st.integers(0, 2), times=st.integers(1, 6))
    def some_worker_runs_on(self, which: int, times: int) -> None:
        assert self.epochs is not None
        crew = self.epochs.crew
        able = [worker_id for worker_id in crew.actors if crew.can_step(worker_id)]
        if able:
            worker_id = able[which % len(able)]
            for _ in range(times):
                if crew.can_step(worker_id):
                    crew.step(worker_id)

    # Workers that only ever die end the epoch with an error, as they should.
    @precondition(lambda self: self.num_deaths < MOST_DEATHS)
    @rule(which=st.integers(0, 2))
    def a_worker_is_killed_where_it_stands(self, which: int) -> None:
        assert self.epochs is not None
        crew = self.epochs.crew
        alive = [worker_id for worker_id, actor in crew.actors.items() if actor.alive]
        if alive:
            self.num_deaths += 1
            crew.kill(alive[which % len(alive)])

    @precondition(lambda self: self.num_deaths < MOST_DEATHS)
    @rule(which=st.integers(0, 2), lines=st.integers(0, 120))
    def a_worker_will_die_some_lines_on(self, which: int, lines: int) -> None:
        assert self.epochs is not None
        alive = [actor for actor in self.epochs.crew.actors.values() if actor.alive]
        if alive:
            self.num_deaths += 1
            alive[which % len(alive)].kill_before_line(lines)

    @rule()
    def the_training_loop_finds_the_dead(self) -> None:
        assert self.epochs is not None
        self.epochs.replace_dead()

    @precondition(lambda self: self.epochs is not None and not self.epochs.finished)
    @rule()
    def the_training_loop_looks(self) -> None:
        assert self.epochs is not None
        self.epochs.ask()

    @rule(seconds=st.sampled_from([LONGEST_CHUNK_S, 1.0]))
    def time_passes(self, seconds: float) -> None:
        assert self.epochs is not None
        for worker_id in self.epochs.crew.wait(seconds):
            self.epochs.crew.step(worker_id)

    @precondition(lambda self: self.epochs is not None and self.epochs.kept)
    @rule(which=st.integers(0, 20))
    def the_training_loop_drops_a_batch(self, which: int) -> None:
        assert self.epochs is not None
        del self.epochs.kept[which % len(self.epochs.kept)]

    @precondition(lambda self: self.epochs is not None and self.epochs.delivered)
    @rule()
    def another_epoch_begins(self) -> None:
        assert self.epochs is not None
        if self.epochs.finished:
            self.epochs.check_epoch()
        self.epochs.reset()

    @invariant()
    def the_board_is_sound(self) -> None:
        if self.epochs is not None:
            self.epochs.check_running()

    def teardown(self) -> None:
        if self.epochs is None:
            return
        try:
            self.epochs.run_out()
            self.epochs.check_running()
            self.epochs.check_epoch()
            self.epochs.check_memory()
        finally:
            self.epochs.close()


LoaderMachine.TestCase.settings = settings(stateful_step_count=40)
TestLoaderMachine = pytest.mark.timeout(120)(LoaderMachine.TestCase)
