"""What the training process does when workers die, or when slow samples hold nearly all."""

from __future__ import annotations

import time

from hatchway.loader import payload
from hatchway.loader.background import WORTH_A_FORK_S, WORTH_A_SPAWN_S, too_many_slow
from hatchway.loader.board import Alive, Kind, Parked, Running
from hatchway.loader.commons import Commons
from hatchway.loader.errors import WorkerDiedError
from hatchway.loader.failure import collating, death_of, describe_exit
from hatchway.loader.machine import cpu_quota
from hatchway.loader.pool import Pool
from hatchway.loader.schedule import Reclaimed
from hatchway.loader.statistics import Meter

_TRIES = 2


class Rescue:
    """Replaces dead workers and starts background workers."""

    def __init__(self, commons: Commons, pool: Pool, meter: Meter) -> None:
        self._commons = commons
        self._board = commons.board
        self._pool = pool
        self._visit = commons.locked(commons.training_process)
        self._idle_deaths = 0
        self._seen = 0
        self._num_cores = cpu_quota()
        self._may_grow = True
        self.meter = meter

    def replace_dead(self) -> None:
        """Put back what dead workers had taken, and start others in their place.

        Not in the place of those that were asked to leave.

        Raises:
            WorkerDiedError: If workers keep dying before they begin a sample.
        """
        for worker_id, exit_code in self._pool.dead():
            has_left = self._board.alive.cells[worker_id] == Alive.LEAVING
            self._put_back(worker_id, exit_code, may_be_idle=has_left)
            self._pool.forget(worker_id)
            if has_left:
                self.meter.num_retired += 1
            else:
                self.meter.num_restarts += 1
                self._pool.start(worker_id)
        for worker_id, may_blame in self._pool.guests.gone():
            # Its own rank starts another.
            self._put_back(worker_id, None, may_be_idle=True, may_blame=may_blame)
            self._pool.guests.forget(worker_id)
            self._commons.wake_for_memory()

    def _put_back(
        self, worker_id: int, exit_code: int | None, *, may_be_idle: bool, may_blame: bool = True
    ) -> None:
        commons, board = self._commons, self._board
        with self._visit:
            may_be_idle |= board.parked.cells[worker_id] == Parked.ELSEWHERE
            left = commons.schedule.reclaim(worker_id, may_blame=may_blame)
            commons.heap.repair(commons.delivery.referenced_blocks(), {worker_id})
            if left.attempts >= _TRIES:
                self._give_up(left, worker_id, exit_code)
            commons.delivery.compose()
            self._pool.wake(board.shape.workers)
        if may_be_idle or left.position is not None or left.outgoing is not None:
            self._idle_deaths = 0
            return
        if self.meter.num_samples != self._seen:
            self._seen, self._idle_deaths = self.meter.num_samples, 0
        self._idle_deaths += 1
        if self._idle_deaths > 2 * board.shape.workers + 2:
            raise WorkerDiedError(
                f"workers keep dying before they begin a sample; the last one "
                f"{describe_exit(exit_code)}; look at worker_init_fn, at what importing the "
                "dataset's module does, and at the memory left",
                exit_code=exit_code,
                worker_id=worker_id,
            )

    def _give_up(self, left: Reclaimed, worker_id: int, exit_code: int | None) -> None:
        commons, board = self._commons, self._board
        position, outgoing = left.position, left.outgoing
        rank: int | None = None
        key: object = None
        members: list[int] = []
        if position is not None and not left.was_collating:
            doing, rank = "loading the sample", position - board.start_of(position)
            key = commons.schedule.key_of(position, commons.view)
        else:
            if position is not None:
                members = commons.schedule.home_of(position)
            elif outgoing is not None:
                members = commons.delivery.members(outgoing).tolist()
            doing = collating(members, board.start_of(members[0]))
        failure = death_of(
            exit_code,
            doing=doing,
            position=rank,
            index=key,
            worker_id=worker_id,
            pid=self._pool.pid_of(worker_id),
        )
        content = payload.dump(failure)
        block = commons.heap.allocate(content.nbytes, commons.training_process, over_budget=True)
        if block < 0:
            failure.reraise()
        content.write(commons.view(block, content.nbytes))
        if position is not None and members:
            commons.schedule.fail_batch(members, block, content.nbytes)
        elif position is not None:
            commons.schedule.fail(position, block, content.nbytes)
        elif outgoing is not None:
            commons.delivery.collated(outgoing, Kind.ERROR, block, content.nbytes)

    def help(self, num_seats: int, most: int) -> None:
        """Start a background worker if slow samples hold all workers but one.

        One ahead, since nobody can start any while the training loop is in a step.

        Args:
            num_seats: How many workers the fast lane has.
            most: How many workers there may be in all.
        """
        if self._may_grow and self._pool.size < most and self._too_many_slow(num_seats):
            worker_id = min(set(range(most)) - set(self._pool.ids))
            try:
                self._pool.start(worker_id)
            except OSError:
                # No room for another process: go on with those there are.
                self._may_grow = False
            else:
                self.meter.num_background_workers += 1

    def _too_many_slow(self, num_seats: int) -> bool:
        return too_many_slow(
            self._board,
            has_work=self._commons.schedule.has_work(),
            num_seats=num_seats,
            num_workers=self._pool.size,
            now_s=time.monotonic(),
            worth_a_start_s=WORTH_A_FORK_S if self._pool.starts_fast else WORTH_A_SPAWN_S,
            num_computing=self._pool.num_computing,
            num_cores=self._num_cores,
        )

    def describe_running(self) -> str:
        """What the workers are doing, in words."""
        board = self._board
        now = time.monotonic()
        said = []
        for worker_id in [*self._pool.ids, *self._pool.guests.present()]:
            doing = board.running.cells[worker_id]
            started = board.started.cells[worker_id]
            if doing == Running.SAMPLE and started:
                position = board.current.cells[worker_id]
                key = self._commons.schedule.key_of(position, self._commons.view)
                age_s = now - started
                said.append(
                    f"worker {worker_id} is at dataset index {key} for {age_s:.1f} s "
                    f"(position {position - board.start_of(position)})"
                )
            else:
                said.append(f"worker {worker_id}: {Running.NAMES[doing]}")
        return "; ".join(said)
