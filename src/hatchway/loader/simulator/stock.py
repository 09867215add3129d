"""Stock torch's loader of one device: whole batches, each on one worker."""

from __future__ import annotations

from collections import deque
from functools import partial

import numpy as np

from hatchway.loader.simulator.device import Give
from hatchway.loader.simulator.place import Place


class StockLoader:
    """``torch.utils.data.DataLoader`` with workers, as torch 2.13 deals batches out.

    A worker is given ``prefetch_factor`` batches when the epoch begins; with each batch
    that the training loop gets, one more is dealt, to the next worker in turn
    (``in_order=True``) or to the next one that has not that many.

    Args:
        place: Where it runs, and with what.
        in_order: As in torch: whether batches leave in the sampler's order.
    """

    def __init__(
        self,
        place: Place,
        *,
        in_order: bool,
    ) -> None:
        self.num_background_workers = 0
        setting = place.setting
        self._timeline = place.timeline
        self._cores = place.cores
        self._costs = setting.costs
        self._prefetch_factor = setting.prefetch_factor
        self._in_order = in_order
        places, size = np.arange(len(place.order)), setting.batch_size
        self._batches = [places[at : at + size] for at in range(0, len(places), size)]
        took_s = place.order_times_s + self._costs.sample_s
        self._work_s = [float(took_s[batch].sum()) for batch in self._batches]
        num_workers = place.num_workers
        self._queues: list[deque[int]] = [deque() for _ in range(num_workers)]
        self._is_idle = [False] * num_workers
        self._num_tasks = [0] * num_workers
        self._worker_of: dict[int, int] = {}
        self._next_worker = self._num_dealt = self._num_left = 0
        self._arrived: list[int] = []
        self._give: Give | None = None

    def begin(self) -> None:
        """Start the workers one after the other, then deal the first batches."""
        num_workers = len(self._queues)
        for worker in range(num_workers):
            started_s = (worker + 1) * self._costs.fork_s + self._costs.boot_s
            self._timeline.after(started_s, partial(self._go_on, worker))
        self._timeline.after(num_workers * self._costs.fork_s, self._deal_first)

    def _deal_first(self) -> None:
        for _ in range(self._prefetch_factor * len(self._queues)):
            self._deal()

    def ask(self, give: Give) -> None:
        """Wait for the next batch."""
        self._give = give
        self._hand_over()

    def _deal(self) -> None:
        """Give the next batch to a worker."""
        if self._num_dealt == len(self._batches):
            return
        num_workers = len(self._queues)
        for _ in range(num_workers):
            worker = self._next_worker
            self._next_worker = (worker + 1) % num_workers
            if self._in_order or self._num_tasks[worker] < self._prefetch_factor:
                break
        self._num_tasks[worker] += 1
        self._worker_of[self._num_dealt] = worker
        self._queues[worker].append(self._num_dealt)
        self._num_dealt += 1
        if self._is_idle[worker]:
            self._go_on(worker)

    def _go_on(self, worker: int) -> None:
        """A worker takes its next batch, if it was given one."""
        self._is_idle[worker] = not self._queues[worker]
        if self._queues[worker]:
            batch = self._queues[worker].popleft()
            self._cores.run(self._work_s[batch], partial(self._finish, worker, batch))

    def _finish(self, worker: int, batch: int) -> None:
        self._arrived.append(batch)
        self._go_on(worker)
        self._hand_over()

    def _hand_over(self) -> None:
        """Hand over the batch that is due, if the loop waits and it is there."""
        due = self._num_left if self._in_order else next(iter(self._arrived), -1)
        if self._give is None or due not in self._arrived:
            return
        self._arrived.remove(due)
        self._num_left += 1
        self._num_tasks[self._worker_of.pop(due)] -= 1
        self._deal()
        give, self._give = self._give, None
        give(self._batches[due])
