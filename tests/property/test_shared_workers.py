"""Several ranks share their workers: each rank's epoch is whole, whoever dies or ends."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatchway.loader.board import Alive
from hatchway.loader.errors import BufferFullError
from tests.property.neighbourhood import SharedEpochs, able_of, neighbourhood, step
from tests.property.setting import Setting

MOST_DEATHS = 2


class Story:
    """What happens to some ranks, as a random generator says."""

    def __init__(self, ranks: list[SharedEpochs], choices: random.Random) -> None:
        self.ranks = ranks
        self.random = choices
        self.deaths_left = MOST_DEATHS
        self.idle = 0
        # Whose loop takes its time: its workers have something to do for others.
        self.is_slow = [choices.random() < 0.5 for _ in ranks]

    def run_out(self, most_steps: int = -1) -> None:
        """Let everybody run until all epochs are over, or for some steps."""
        while most_steps and not all(rank.is_done for rank in self.ranks):
            most_steps -= 1
            self._replace_dead()
            able = able_of(self.ranks)
            asking = [
                rank
                for rank, is_slow in zip(self.ranks, self.is_slow, strict=True)
                if not rank.is_done
                and (not rank.asking or rank.commons.bell.rung)
                and not (able and is_slow and self.random.random() < 0.95)
            ]
            which = self.random.randrange(len(able) + len(asking)) if able or asking else -1
            if which < 0:
                self._wait()
                continue
            if which < len(able):
                step(self.ranks, *able[which])
            else:
                asking[which - len(able)].ask()
            self.idle = 0

    def kill(self) -> None:
        """Kill a worker, while nobody holds a lock."""
        running = [
            (rank, i) for rank in self.ranks for i, one in rank.crew.actors.items() if one.alive
        ]
        is_held = any(rank.crew.gate.held for rank in self.ranks)
        if running and self.deaths_left and not is_held:
            self.deaths_left -= 1
            rank, worker_id = self.random.choice(running)
            rank.crew.kill(worker_id)

    def _replace_dead(self) -> None:
        for rank in self.ranks:
            # Only a rank whose training process is there, and only while nobody is at its board.
            if not rank.is_gone and not rank.crew.gate.held:
                rank.replace_dead()

    def _wait(self) -> None:
        self.idle += 1
        where = [rank.describe() for rank in self.ranks]
        assert self.idle < 20, f"nothing moves: {where}"
        for rank in self.ranks:
            rank.crew.now_s = self.ranks[-1].crew.now_s  # the clock that all of them read
        for rank in self.ranks:
            for worker_id in rank.crew.wait(0.3):
                step(self.ranks, rank, worker_id)
        for rank in self.ranks:
            if not rank.is_done:
                rank.ask()

    def check(self) -> None:
        """What holds of each rank that is there when its epoch is over."""
        for rank in self.ranks:
            if not rank.is_gone:
                rank.check_running()
                rank.check_epoch()

    def close(self) -> None:
        for rank in reversed(self.ranks):
            rank.close()


settings_of_ranks = st.builds(
    Setting,
    order=st.sampled_from(["strict", "overtaking", "ready"]),
    num_samples=st.integers(1, 14),
    batch_size=st.integers(1, 4),
    num_workers=st.integers(1, 2),
    window=st.integers(2, 4),
    sample=st.sampled_from(["row", "blob", "mixed"]),
    custom_collate=st.booleans(),
    pure=st.booleans(),
    failing=st.frozensets(st.integers(0, 13), max_size=2),
)


@given(
    setting=settings_of_ranks,
    seed=st.integers(0, 2**32),
    num_ranks=st.integers(2, 3),
    num_epochs=st.integers(1, 2),
)
def test_the_epoch_of_each_rank_is_whole_whichever_workers_die(
    setting: Setting, seed: int, num_ranks: int, num_epochs: int
) -> None:
    choices = random.Random(seed)
    story = Story(neighbourhood(setting, num_ranks), choices)
    try:
        for number in range(num_epochs):
            if number:
                for rank in story.ranks:
                    rank.reset()
            for _ in range(choices.randrange(4)):
                story.run_out(choices.randrange(60))
                story.kill()
            story.run_out()
            story.check()
        for rank in story.ranks:
            rank.check_memory()
    finally:
        story.close()


@given(setting=settings_of_ranks, seed=st.integers(0, 2**32), num_pages=st.integers(6, 8))
def test_nobody_waits_for_ever_where_memory_is_short(
    setting: Setting, seed: int, num_pages: int
) -> None:
    choices = random.Random(seed)
    story = Story(neighbourhood(setting, 2), choices)
    for rank in story.ranks:
        rank.heap.budget_bytes = num_pages * 4096
    try:
        for _ in range(3):
            story.run_out(choices.randrange(60))
            story.kill()
        story.run_out()
        story.check()
    except BufferFullError:
        pass  # it may be too short: that is said
    finally:
        story.close()


@given(setting=settings_of_ranks, seed=st.integers(0, 2**32), dies=st.booleans())
def test_a_rank_that_ends_or_dies_early_leaves_the_others_whole(
    setting: Setting, seed: int, dies: bool
) -> None:
    choices = random.Random(seed)
    story = Story(neighbourhood(setting, 3), choices)
    try:
        story.run_out(choices.randrange(120))
        while any(rank.crew.gate.held for rank in story.ranks):
            story.run_out(1)
        story.ranks[0].end(dies=dies)
        story.run_out()
        story.check()
        for rank in story.ranks[1:]:
            rank.check_memory()
        while able := able_of(story.ranks):
            step(story.ranks, *choices.choice(able))
        assert not any(one.alive for one in story.ranks[0].crew.actors.values())
        if not dies:  # nobody looks at the board of one that is gone
            alive = story.ranks[0].board.alive.array
            assert (alive != Alive.GUEST).all()
    finally:
        story.close()


@pytest.mark.parametrize("order", ["strict", "overtaking", "ready"])
def test_workers_of_a_rank_that_does_not_read_work_for_the_other(order: str) -> None:
    setting = Setting(order=order, num_samples=40, num_workers=1, window=2)
    busy, idle = ranks = neighbourhood(setting, 2)
    story = Story(ranks, random.Random(1))
    try:
        idle.is_closed = True  # its loop asks for nothing: what it may have ahead is made
        story.run_out()
        assert busy.finished
        assert idle.num_helped > 0
    finally:
        story.close()
