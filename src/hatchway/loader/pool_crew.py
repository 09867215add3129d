"""The workers of a live loader: which kind, and as a crew whose number follows the load."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from hatchway.loader.adaptation import Adaptation, Usage
from hatchway.loader.foresight import Foresight
from hatchway.loader.machine import available_memory_bytes, cpu_quota
from hatchway.loader.options import lookahead_batches, most_workers
from hatchway.loader.plan import Plan
from hatchway.loader.pool import Pool, ProcessPool
from hatchway.loader.shared_pool import SharedPool
from hatchway.loader.sharing import Sharing
from hatchway.loader.task import WorkerTask
from hatchway.loader.thread_pool import ThreadPool


class PoolCrew:
    """Starts and retires the workers of a pool.

    Args:
        pool: The workers.
        most: How many workers there may be.
        forget_gone: Called to take those off the list that have left.
    """

    def __init__(self, pool: Pool, most: int, forget_gone: Callable[[], None]) -> None:
        self._pool = pool
        self._most = most
        self._forget_gone = forget_gone
        self._num_cores = cpu_quota()
        self._has_room = True
        self._cpu_s: dict[int, float] = {}
        self._gone_cpu_s = 0.0

    def size(self) -> int:
        """How many workers there are, without those that are leaving."""
        return self._pool.size - len(self._pool.leaving())

    def start_one(self) -> bool:
        """Start a worker, if there is an id left and the system lets us."""
        free = set(range(self._most)) - set(self._pool.ids)
        if not (free and self._has_room):
            return False
        try:
            self._pool.start(min(free))
        except OSError:
            self._has_room = False  # no other process, or descriptor: go on with those there are
            return False
        return True

    def let_go(self, count: int) -> None:
        """Have those leave that sleep, and then those with the highest ids."""
        leaving = set(self._pool.leaving())
        here = [worker_id for worker_id in self._pool.ids if worker_id not in leaving]
        here.sort(key=lambda worker_id: (not self._pool.is_parked(worker_id), -worker_id))
        for worker_id in here[:count]:
            self._pool.retire(worker_id)

    def usage(self) -> Usage:
        """What they take of the machine."""
        self._forget_gone()
        usages = self._pool.usages()
        now_s = {worker_id: usage.cpu_s for worker_id, usage in usages.items()}
        for worker_id, before_s in self._cpu_s.items():
            if now_s.get(worker_id, 0.0) < before_s:  # it has left; another may have its id
                self._gone_cpu_s += before_s
        self._cpu_s = now_s
        cpu_s = self._gone_cpu_s + sum(now_s.values())
        return Usage(
            cpu_s=cpu_s,
            main_cpu_s=time.process_time() - (cpu_s if self._pool.ARE_WITHIN else 0.0),
            num_runnable=sum(usage.is_runnable for usage in usages.values()),
            num_cores=self._num_cores,
            most=self._most_in_memory,
        )

    def _most_in_memory(self) -> int:
        """For how many workers there is memory, if each takes as much as the first one.

        To ask for a worker's memory takes the kernel 7 ms for each GiB that it was forked with.
        """
        each = self._pool.memory_bytes(min(self._pool.ids)) if self._pool.size else 0
        return self.size() + available_memory_bytes() // max(each, self._pool.ASSUMED_BYTES)


def pool_of(loader: Any, task: WorkerTask, sharing: Sharing | None) -> Pool:
    """The workers of a pass over ``loader``, none of which has begun."""
    if loader.has_threads:
        return ThreadPool(task)
    if sharing is not None:
        return SharedPool(task, loader.multiprocessing_context, sharing)
    return ProcessPool(task, loader.multiprocessing_context)


def adaptation_of(
    loader: Any,
    pool: Pool,
    plan: Plan,
    foresight: Foresight,
    forget_gone: Callable[[], None],
) -> Adaptation | None:
    """What adapts the workers of a pass over ``loader``; None where their number is given."""
    count = loader.worker_count
    if count is None:
        return None
    crew = PoolCrew(pool, most_workers(loader), forget_gone)
    window_batches = partial(lookahead_batches, loader)
    return Adaptation(pool.board, plan, foresight, crew, count, window_batches)
