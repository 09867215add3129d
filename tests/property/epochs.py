"""Epochs of a simulated loader: the training loop's side, and what must hold of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from hatchway.loader.board import (
    Alive,
    Block,
    BoardShape,
    Head,
    Running,
    Status,
    Waiting,
    power_of_two,
)
from hatchway.loader.errors import SampleError, WorkerDiedError
from hatchway.loader.failure import Failure
from hatchway.loader.inbox import Inbox
from hatchway.loader.plan import Plan
from hatchway.loader.progress import Progress
from hatchway.loader.rescue import Rescue
from hatchway.loader.rules import DeliveryRules
from hatchway.loader.script import Script
from hatchway.loader.statistics import Meter
from tests.property.setting import BadSampleError, Setting, read
from tests.property.simulation import Crew

DEPTH = 2


class Epochs:
    """A loader as the training loop drives it, one decision at a time."""

    def __init__(
        self, setting: Setting, resume: Progress | None = None, script: Script | None = None
    ) -> None:
        self.setting = setting
        self._script = script
        self._resume = resume
        self.before: list[int] = []  # what was delivered before this pass went on
        if resume is not None:
            self.before = [rank for begin, end in resume.ranges() for rank in range(begin, end)]
        free, size = setting.is_free, setting.batch_size
        # What was delivered out of turn keeps slots, too.
        least = setting.window * size * (1 if resume is None else 4)
        ahead = 0 if script is None else 2 * (script.most_ahead + size)
        ring = power_of_two(max(least, ahead))
        rings = power_of_two(2 * (setting.window + 2) + ring // size * free)
        shape = BoardShape(
            positions=ring,
            homes=rings,
            outgoing=power_of_two(2 * DEPTH + 4) if free else rings,
            members=size if free else 1,
            workers=setting.num_workers + setting.num_guests,
            blocks=256,
            schema_bytes=2048,
        )
        rules = DeliveryRules(
            fixed=not free,
            in_order=setting.order == "strict",
            batch_size=size,
            drop_last=setting.drop_last,
            depth=DEPTH,
            rows_are_batch=not setting.custom_collate,
            max_displacement=setting.max_displacement if free else None,
            replays=script is not None,
        )
        self.crew = Crew(
            shape,
            rules,
            budget_bytes=1 << 20,
            load=self._load,
            collate=default_collate,
            rows=True,
            pure=setting.pure,
        )
        self.commons = self.crew.commons
        self.board = self.commons.board
        self.heap = self.crew.heap
        self._visit = self.commons.locked(self.commons.training_process)
        self._plan = Plan(
            self.commons,
            window=setting.window,
            batch_size=size if free else None,
            single=False,
            foresight=self,  # type: ignore[arg-type]
        )
        self._inbox = Inbox(self.commons)
        self.meter = Meter()
        self.rescue = Rescue(self.commons, self.crew.pool, self.meter)  # type: ignore[arg-type]
        self.board.head[Head.NUM_SEATS] = setting.num_workers + setting.num_guests
        self.board.cut_s[0] = 0.25
        self.board.cut_s[1] = setting.patience_s
        self.epoch = -1
        self.num_adopted = 0
        self.finished = False
        self.kept: list[tuple[list[int], Any]] = []
        try:
            self.begin()
        except BaseException:
            self.close()
            raise
        for worker_id in range(setting.num_workers):
            self.crew.start(worker_id)

    def begin(self) -> None:
        """Plan the first window of an epoch."""
        self.epoch += 1
        was_finished = self.epoch > 0 and self.finished
        resume, self._resume = self._resume, None
        if resume is None:
            self.before = []
        self.batches: list[list[int]] = []
        self.delivered: list[int] = []
        self.failed: list[int] = []
        self.finished = False
        self.asking = False
        homes = self._homes_of(self.epoch)
        self.homes = [[number % 1000 for number in home] for home in homes]
        sampler = iter(self._keyed(homes))
        left: Any = sampler
        if was_finished:
            left = self._plan.check_prepared(sampler)
        if left is None:
            with self._visit:
                self._plan.adopt(sampler, self._upcoming)
            self.num_adopted += 1
        else:
            if self.epoch:
                self._abandon()
            self._plan.begin(left, self._upcoming, resume, self._script)
            self._script = None
        self._plan.draw(None)
        with self._visit:
            self._plan.publish()
            self.crew.pool.wake(self.crew.pool.size)

    def state(self) -> Progress:
        """How far this epoch has come, as it would be saved."""
        progress = self._plan.progress
        return Progress(progress.ranges(), progress.num_homes, progress.digest)

    @property
    def has_prepared(self) -> bool:
        """Whether samples of the next epoch were planned."""
        return self._plan.has_prepared

    def _homes_of(self, epoch: int) -> list[list[int]]:
        size, count = self.setting.batch_size, self.setting.num_samples
        numbers = range(1000 * epoch, 1000 * epoch + count)
        homes = [list(numbers[at : at + size]) for at in range(0, count, size)]
        if self.setting.drop_last:  # as torch's batch sampler does
            homes = [home for home in homes if len(home) == size]
        return homes

    def _keyed(self, homes: list[list[int]]) -> list[list[Any]]:
        return [[self._key(number) for number in home] for home in homes]

    def _upcoming(self) -> Any:
        if self.setting.foresees == "nothing":
            return None
        ahead = 1 if self.setting.foresees == "it" else 7
        return iter(self._keyed(self._homes_of(self.epoch + ahead)))

    def look(self, indices: Any) -> Any:
        """Stands for the foresight: the leads that the setting says."""
        leads = [
            self.setting.leads[i] if i < len(self.setting.leads) else 0 for i in indices % 1000
        ]
        return np.full(len(leads), 0.2, np.float32), np.array(leads, np.int32)

    def ask(self) -> bool:
        """One turn of the training loop; whether it got a batch (or an error, or the end)."""
        plan, delivery, head = self._plan, self.commons.delivery, self.board.head
        has_drawn = bool(plan.draw(None if self.asking else 1))
        self.asking = True
        self._inbox.release_dropped()
        self.commons.bell.silence()
        with self._visit:
            plan.publish()
            if self.setting.is_free:
                delivery.compose()
            taken = delivery.take()
            if taken is not None:
                plan.delivered(taken.positions)
                if self.setting.is_free:
                    delivery.compose()
            elif delivery.finished():
                self.finished = True
                return True
            head[Head.WAITING] = Waiting.BATCH if taken is None else Waiting.NOTHING
            self.crew.pool.wake(plan.work_left())
            self.commons.wake_for_memory()
        if taken is None:
            return has_drawn
        self.asking = False
        ranks = (taken.positions - head[Head.EPOCH_START]).tolist()
        self.delivered += ranks
        try:
            batch = self._inbox.open(taken)
            if isinstance(batch, Failure):
                batch.reraise()
        except (BadSampleError, WorkerDiedError) as error:
            self._note_failure(error, ranks)
        else:
            assert read(batch) == [self._number(rank) for rank in ranks]
            self.batches.append(ranks)
            self.kept.append((ranks, batch))
        return True

    def replace_dead(self) -> None:
        """What the training loop does when a sentinel is readable."""
        self.rescue.replace_dead()

    def reset(self) -> None:
        """Another epoch, whatever is left of this one (``persistent_workers``)."""
        self.begin()

    def _abandon(self) -> None:
        while True:
            with self._visit:
                self.commons.schedule.abandon()
                is_there = self.board.alive.array != Alive.GONE
                busy = (self.board.running.array != Running.NOTHING) & is_there
                if not busy.any():
                    self._plan.forget()
                    break
                self.board.head[Head.WAITING] = Waiting.EPOCH_END
            self.commons.wake_for_memory()
            self._idle_until(lambda: self.commons.bell.rung)
            self.commons.bell.silence()
            self.rescue.replace_dead()

    def run_out(self, choose: Callable[[int], int] = lambda count: 0) -> None:
        """Let everybody run until the epoch is over; fails where nothing moves any more."""
        idle = 0
        while not self.finished:
            able = [i for i in self.crew.actors if self.crew.can_step(i)]
            dead = any(not actor.alive for actor in self.crew.actors.values())
            if able:
                self.crew.step(able[choose(len(able))])
            elif dead:
                self.rescue.replace_dead()
            elif not self.asking or self.commons.bell.rung:
                self.ask()
            else:
                # The training loop's look around and the workers' naps.
                idle += 1
                assert idle < 20, f"nothing moves: {self.describe()}"
                napping = self.crew.wait(0.3)
                for worker_id in napping:
                    self.crew.step(worker_id)
                if not napping:
                    assert not self.setting.pure or self.setting.is_free, (
                        f"a wake-up was lost: {self.describe()}"
                    )
                    self.ask()
                continue
            idle = 0

    def run_whole(self, num_epochs: int, choose: Callable[[int], int] = lambda count: 0) -> None:
        """Run epochs out, one after the other, and check what holds after each, and at the end."""
        for number in range(num_epochs):
            if number:
                self.reset()
            self.run_out(choose)
            self.check_running()
            self.check_epoch()
        self.check_memory()

    def step_someone(self, choose: Callable[[int], int]) -> None:
        """Let a worker, or the training loop, run on."""
        able = [i for i in self.crew.actors if self.crew.can_step(i)]
        which = choose(len(able) + 1)
        if which < len(able):
            self.crew.step(able[which])
        elif not self.finished:
            self.ask()

    def check_running(self) -> None:
        """What holds whenever nobody holds the lock."""
        board, head = self.board, self.board.head
        if head[Head.HOLDER] or self.crew.gate.held:
            return
        assert not self.heap.faults, self.heap.faults
        count = head[Head.NUM_BLOCKS]
        states = board.block_state.array[:count]
        resident = int(board.block_bytes.array[:count][states != Block.PUNCHED].sum())
        assert head[Head.RESIDENT] == resident <= self.heap.budget_bytes
        for block in self.commons.delivery.referenced_blocks():
            assert states[block] == Block.USED, f"block {block} is referenced after it was freed"
        assert head[Head.PUBLISHED] - head[Head.TAIL] <= board.mask + 1
        assert head[Head.TAIL] <= head[Head.CURSOR] <= head[Head.PUBLISHED]
        assert head[Head.HOMES] - head[Head.HOME_TAIL] <= board.home_mask + 1
        planned = board.run(board.status, head[Head.TAIL], head[Head.CURSOR]) == Status.PLANNED
        assert head[Head.NUM_RETRY] >= planned.sum()
        ahead = board.run(board.status, head[Head.CURSOR], head[Head.PUBLISHED]) == Status.PLANNED
        has_lead = board.run(board.lead, head[Head.CURSOR], head[Head.PUBLISHED]) > 0
        assert head[Head.NUM_EARLY] >= (ahead & has_lead).sum()
        if self.setting.is_free:
            assert head[Head.OUT_HEAD] - head[Head.OUT_TAIL] <= DEPTH
        for _, batch in self.kept:
            read(batch)

    def check_epoch(self) -> None:
        """What holds when the epoch is over."""
        setting, size = self.setting, self.setting.batch_size
        assert self.finished
        in_all = self.before + self.delivered
        twice = [rank for rank, times in Counter(in_all).items() if times > 1]
        assert not twice, f"delivered more than once: {twice}"
        published = [rank for home in self.homes for rank in home]
        missing = sorted(set(published) - set(in_all))
        assert set(in_all) <= set(published)
        if setting.is_free and setting.drop_last:
            assert len(missing) < size
        else:
            assert not missing, f"never delivered: {missing}"
        if setting.is_free:
            whole = self.batches if setting.drop_last else self.batches[:-1]
            # A failure leaves alone, so that less than a batch may be left in the ring.
            assert self.failed or all(len(batch) == size for batch in whole)
            assert all(sorted(batch) == batch for batch in self.batches)
        else:
            assert all(batch in self.homes for batch in self.batches)
        if setting.order == "strict":
            assert in_all == published
        if setting.is_free and setting.max_displacement is not None:
            late = [turn - rank for turn, rank in enumerate(in_all)][len(self.before) :]
            # A failure leaves alone, before what is finished beside it.
            assert max(late, default=0) <= setting.max_displacement + len(self.failed)

    def check_memory(self) -> None:
        """What holds when all batches are dropped: nothing is in use."""
        if self._plan.has_prepared:
            self._abandon()
        self.kept.clear()
        self._inbox.release_dropped()
        count = self.board.head[Head.NUM_BLOCKS]
        used = np.flatnonzero(self.board.block_state.array[:count] == Block.USED).tolist()
        assert not used, f"blocks never freed: {used}"
        assert not self.heap.faults, self.heap.faults

    def describe(self) -> str:
        """The board in a few words, for a failure's message."""
        head, board = self.board.head, self.board
        status = board.run(board.status, head[Head.TAIL], head[Head.PUBLISHED])
        actors = {i: actor.state for i, actor in self.crew.actors.items()}
        return (
            f"tail {head[Head.TAIL]} cursor {head[Head.CURSOR]} retry {head[Head.NUM_RETRY]} "
            f"published {head[Head.PUBLISHED]} status {status.tolist()} "
            f"outgoing {board.out_status.array.tolist()} workers {actors} "
            f"waiting {head[Head.WAITING]}"
        )

    def close(self) -> None:
        """End every thread."""
        self.crew.close()

    def _idle_until(self, done: Callable[[], bool]) -> None:
        for _ in range(400):
            if done() or not all(actor.alive for actor in self.crew.actors.values()):
                return
            able = [i for i in self.crew.actors if self.crew.can_step(i)]
            if not able:
                return  # the wait ends after a second in any case
            self.crew.step(able[0])
        raise AssertionError(f"the workers never rest: {self.describe()}")

    def _note_failure(self, error: Exception, ranks: list[int]) -> None:
        cause = error if isinstance(error, SampleError) else error.__cause__
        assert isinstance(cause, SampleError)
        if cause.position is not None:
            assert cause.position in ranks
            self.failed.append(cause.position)

    def _number(self, rank: int) -> int:
        return 1000 * self.epoch + rank

    def _key(self, number: int) -> Any:
        return ("key", number) if self.setting.odd_keys else number

    def _load(self, key: Any) -> Any:
        number = key[1] if self.setting.odd_keys else key
        if number % 1000 in self.setting.failing:
            raise BadSampleError(number)
        sample: dict[str, Any] = {"numbers": torch.full((5,), number), "half": number / 2}
        if self.setting.sample == "blob":
            sample["name"] = f"sample {number}"
        elif self.setting.sample == "mixed" and number % 3 == 1:
            return dict(reversed(sample.items()))  # not the structure of a row
        return sample
