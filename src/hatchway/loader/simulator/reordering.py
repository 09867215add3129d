"""Hatchway's loader of one device: the real decisions, on a clock of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from hatchway.loader.adaptation import Adaptation, Usage
from hatchway.loader.background import LOOK_S, WORTH_A_FORK_S, look_after_s, too_many_slow
from hatchway.loader.board import Alive, Head, Running, Waiting
from hatchway.loader.cost import SLOW_QUANTILE, SampleTimes
from hatchway.loader.costmodel import CostModel
from hatchway.loader.delivery import Delivered
from hatchway.loader.foresight import Foresight
from hatchway.loader.learning import learn, tell_cut
from hatchway.loader.plan import Plan
from hatchway.loader.rules import DeliveryRules
from hatchway.loader.simulator.clock import Event
from hatchway.loader.simulator.commons import simulated_commons
from hatchway.loader.simulator.crew import SimulatedWorker
from hatchway.loader.simulator.device import Give
from hatchway.loader.simulator.place import Place
from hatchway.loader.window import DEPTH, board_shape, window_batches
from hatchway.loader.worker_count import WorkerCount


class HatchwayLoader:
    """The training process's side; see ``ParallelIterator`` for the live one.

    Args:
        place: Where it runs, and with what.
        model: What samples cost, from epoch to epoch.
        is_free: Whether batches are made of what is finished (``order="ready"``).

    Attributes:
        num_background_workers: How many workers were started beyond the device's share.
    """

    def __init__(
        self,
        place: Place,
        model: CostModel,
        *,
        is_free: bool,
    ) -> None:
        self.num_background_workers = 0
        setting = place.setting
        self._timeline = place.timeline
        self._cores = place.cores
        self._costs = setting.costs
        self._times_s = place.times_s
        self._batches = _batches(place.order.tolist(), setting.batch_size)
        self._is_free = is_free
        num_workers = place.num_workers
        extra = setting.max_background_workers
        self._most = num_workers
        if setting.max_workers is not None:
            self._most = setting.max_workers
        elif is_free:
            self._most += num_workers if extra is None else extra
        self._workers: dict[int, SimulatedWorker] = {}
        size = setting.batch_size

        def window_of(num_workers: int) -> int:
            return window_batches(num_workers, setting.prefetch_factor, size)

        most_seats = num_workers if setting.max_workers is None else self._most
        rules = DeliveryRules(
            fixed=not is_free,
            in_order=not is_free,
            batch_size=size,
            drop_last=False,
            depth=DEPTH,
            rows_are_batch=True,
            max_displacement=setting.max_displacement if is_free else None,
        )
        shape = board_shape(window_of(most_seats), size, free=is_free, num_workers=self._most)
        self._commons = simulated_commons(shape, rules, num_workers)
        self._commons.bell.on_ring = self._wake  # type: ignore[attr-defined]
        self._board = self._commons.board
        self._sample_times = SampleTimes(SLOW_QUANTILE, is_quantile=True)
        tell_cut(self._board, self._sample_times)
        self._foresight = Foresight(model, num_workers)
        self._plan = Plan(
            self._commons,
            window=window_of(num_workers),
            batch_size=size if is_free else None,
            single=False,
            foresight=self._foresight,
        )
        self._give: Give | None = None
        self._asked_s = self._helped_s = self._slept_s = self._starved_s = 0.0
        self._nap: Event | None = None
        self._adaptation: Adaptation | None = None
        if setting.max_workers is not None:
            self._adaptation = Adaptation(
                self._board,
                self._plan,
                self._foresight,
                self,
                WorkerCount(num_workers, self._most),
                window_of,
            )

    def begin(self) -> None:
        """Plan the first samples, and start the workers one after the other."""
        self._foresight.begin()
        self._plan.begin(self._batches)
        self._plan.draw(None)
        self._plan.publish()
        for worker_id in range(self._board.head[Head.NUM_SEATS]):
            self._start(worker_id, (worker_id + 1) * self._costs.fork_s)
        if self._adaptation is not None:
            self._adaptation.begin(self._timeline.now_s, 0.0)

    def ask(self, give: Give) -> None:
        """Wait for the next batch."""
        self._give = give
        self._asked_s = self._timeline.now_s
        self._adapt()
        self._plan.draw(1)
        self._look()

    def _look(self) -> None:
        """One look at the board by the training loop, which waits for a batch."""
        plan, delivery, head = self._plan, self._commons.delivery, self._board.head
        while True:
            now_s = self._timeline.now_s
            plan.publish()
            holds_back = self._is_free and delivery.compose(now_s=now_s)
            taken = delivery.take()
            if taken is not None:
                plan.delivered(taken.positions)
                if self._is_free:
                    delivery.compose(now_s=now_s)
                head[Head.WAITING] = Waiting.NOTHING
            else:
                head[Head.WAITING] = Waiting.BATCH_OR_SLOW if holds_back else Waiting.BATCH
            self._commons.wake(self._workers, plan.work_left())
            if taken is not None:
                self._hand_over(taken)
                return
            if not plan.draw(None):
                break
        self._adapt()
        self._slept_s = now_s
        if self._adaptation is not None and self._adaptation.grow():
            self._timeline.after(self._costs.fork_s, self._look_again)
            return
        after_s = look_after_s(self._sample_times.cut_s(), holds_back=bool(holds_back))
        if self._adaptation is not None:
            after_s = min(after_s, max(0.0, self._adaptation.next_s - now_s))
        self._nap = self._timeline.after(after_s, self._look_up)

    def _look_up(self) -> None:
        """Nobody rang for a while."""
        self._nap = None
        self._timeline.after(self._help(), self._look_again)

    def _look_again(self) -> None:
        self._starved_s += self._timeline.now_s - self._slept_s
        self._look()

    def _wake(self) -> None:
        if self._nap is not None:
            self._nap.cancel()
            self._nap = None
            self._timeline.after(0.0, self._look_again)

    def _hand_over(self, taken: Delivered) -> None:
        late_s = self._help() if self._asked_s - self._helped_s > LOOK_S else 0.0
        board, positions = self._board, taken.positions
        seconds = learn(
            board,
            positions,
            self._sample_times,
            self._foresight,
            self._timeline.now_s,
            has_plain_indices=True,
        )
        if self._adaptation is not None:
            self._adaptation.delivered(float(seconds.sum()))
        self._commons.heap.release(taken.block)
        give, self._give = self._give, None
        assert give is not None
        ranks = positions - board.head[Head.EPOCH_START]
        self._timeline.after(late_s, lambda: give(ranks))

    def _help(self) -> float:
        """Start a background worker if that pays; how long the loop is busy with it."""
        if not self._is_free or self._adaptation is not None:
            return 0.0
        now_s = self._helped_s = self._timeline.now_s
        if len(self._workers) >= self._most or not too_many_slow(
            self._board,
            has_work=self._commons.schedule.has_work(),
            num_seats=self._board.head[Head.NUM_SEATS],
            num_workers=len(self._workers),
            now_s=now_s,
            worth_a_start_s=WORTH_A_FORK_S,
            num_computing=self._num_computing,
            num_cores=self._cores.num_cores or 1,
        ):
            return 0.0
        self._start(self._free_id(), self._costs.fork_s)
        self.num_background_workers += 1
        return self._costs.fork_s

    def size(self) -> int:
        """How many workers there are, without those that are leaving."""
        alive = self._board.alive.cells
        return sum(alive[worker_id] != Alive.LEAVING for worker_id in self._workers)

    def start_one(self) -> bool:
        """Start another worker, if there is room on the board."""
        if len(self._workers) >= self._most:
            return False
        self._start(self._free_id(), self._costs.fork_s)
        return True

    def let_go(self, count: int) -> None:
        """Ask the workers with the highest ids to leave."""
        alive = self._board.alive.cells
        here = [worker_id for worker_id in self._workers if alive[worker_id] != Alive.LEAVING]
        for worker_id in sorted(here)[-count:]:
            alive[worker_id] = Alive.LEAVING
            self._commons.worker_bells[worker_id].ring()

    def usage(self) -> Usage:
        """What they take of the cores; the training process takes none."""
        num_cores = self._cores.num_cores
        return Usage(
            cpu_s=self._cores.used_s,
            main_cpu_s=0.0,
            num_runnable=self._cores.num_running if num_cores is not None else 0,
            num_cores=math.inf if num_cores is None else num_cores,
            most=lambda: self._most,
        )

    def _adapt(self) -> None:
        if self._adaptation is not None:
            self._adaptation.look(self._timeline.now_s, self._starved_s)

    def _free_id(self) -> int:
        return min(set(range(self._most)) - set(self._workers))

    def _gone(self, worker_id: int) -> None:
        del self._workers[worker_id]
        self._board.alive.cells[worker_id] = Alive.GONE
        self._commons.count_workers()

    def _num_computing(self) -> int:
        if self._cores.num_cores is None:
            return 0  # samples wait
        running = self._board.running.array
        return int(np.count_nonzero((running == Running.SAMPLE) | (running == Running.COLLATE)))

    def _start(self, worker_id: int, seconds: float) -> None:
        worker = SimulatedWorker(
            self._commons,
            worker_id,
            self._timeline,
            self._cores,
            self._times_s,
            self._costs,
            partial(self._gone, worker_id),
        )
        self._workers[worker_id] = worker
        self._board.alive.cells[worker_id] = Alive.STARTING
        self._commons.count_workers()
        self._timeline.after(seconds + self._costs.boot_s, worker.start)


def _batches(order: list[int], batch_size: int) -> Iterator[list[int]]:
    return (order[at : at + batch_size] for at in range(0, len(order), batch_size))
