"""The limit: the work alone on the same workers, with no transport."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier

import torch

from benchmarks.errors import BenchmarkError
from benchmarks.workloads.spec import IndexedDataset

# Workers claim this share of the work at a time at most: fine enough for an
# even end, coarse enough that claiming costs nothing beside 20 us samples.
_CLAIMS_A_WORKER = 512


@dataclass(frozen=True)
class Limit:
    """How long the work of an epoch takes at best on ``num_workers`` processes.

    Attributes:
        makespan_s: From the first worker's start at the barrier to the last one's end.
        mean_busy_s: The workers' busy time over their number: a perfectly even split.
        sleep_s: The samples' sleeping time over the number of workers.
        cpu_share: Processor time over wall time of the workers. Below 1 for CPU
            work, something else had the cores: the run's absolute figures are late.
        sample_s: Seconds of each sample, in the sampler's order; those that were
            claimed together share their time equally.
    """

    makespan_s: float
    mean_busy_s: float
    sleep_s: float
    cpu_share: float
    sample_s: tuple[float, ...]

    @property
    def work_s(self) -> float:
        """The limit: the makespan, or an even split of the sleeping time if longer."""
        return max(self.makespan_s, self.sleep_s)


def measure_limit(dataset: IndexedDataset, order: Sequence[int], num_workers: int) -> Limit:
    """Make every sample of ``order`` once in ``num_workers`` forked processes and drop it.

    Workers claim indices from a shared counter in the sampler's order, so no
    unlucky split lengthens the limit; forking and meeting at the barrier are
    not counted.

    Raises:
        BenchmarkError: If a worker fails.
    """
    context = multiprocessing.get_context("fork")
    counter = context.Value("q", 0)
    barrier = context.Barrier(num_workers)
    chunk = max(1, len(order) // (num_workers * _CLAIMS_A_WORKER))
    pipes, processes = [], []
    for _ in range(num_workers):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_work, args=(dataset, order, chunk, counter, barrier, sender), daemon=True
        )
        process.start()
        sender.close()
        pipes.append(receiver)
        processes.append(process)
    try:
        spans = [pipe.recv() for pipe in pipes]
    except EOFError:
        raise BenchmarkError("a worker died while the limit was measured") from None
    finally:
        for process in processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
    starts, ends, cpu_s, claims = zip(*spans, strict=True)
    busy_s = sum(ends) - sum(starts)
    return Limit(
        makespan_s=max(ends) - min(starts),
        mean_busy_s=busy_s / num_workers,
        sleep_s=dataset.sleep_s / num_workers,
        cpu_share=sum(cpu_s) / busy_s,
        sample_s=_by_position([claim for of_worker in claims for claim in of_worker]),
    )


def _by_position(claims: list[tuple[int, int, float]]) -> tuple[float, ...]:
    return tuple(seconds / count for _, count, seconds in sorted(claims) for _ in range(count))


def _work(
    dataset: IndexedDataset,
    order: Sequence[int],
    chunk: int,
    counter: Synchronized[int],
    barrier: Barrier,
    sender: Connection,
) -> None:
    torch.set_num_threads(1)  # as a data loader's worker does
    barrier.wait()
    claims = []
    start, cpu_start = time.perf_counter(), time.process_time()
    while True:
        with counter.get_lock():
            first = counter.value
            counter.value = first + chunk
        if first >= len(order):
            break
        claimed = order[first : first + chunk]
        begun = time.perf_counter()
        for index in claimed:
            dataset[index]
        claims.append((first, len(claimed), time.perf_counter() - begun))
    sender.send((start, time.perf_counter(), time.process_time() - cpu_start, claims))
