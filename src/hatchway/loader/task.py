"""What a worker process is given when it starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hatchway.loader.commons import Commons
from hatchway.loader.options import fetches_batches


class WorkerTask(NamedTuple):
    """Everything that a worker process needs.

    Attributes:
        commons: The board, the buffer, the lock.
        dataset: The user's dataset.
        collate_fn: The user's or torch's collate function.
        worker_init_fn: Called with the worker's id when it starts, or None.
        worker_id: From 0; ids from ``num_workers`` on are background workers.
        num_workers: As the user said.
        base_seed: As torch draws it.
        auto_collation: Whether ``collate_fn`` gets a list of samples or one.
        rows: Whether samples of a fixed structure are written as rows.
        per_position_seeds: Whether the generators are seeded for each sample.
        fetches_batches: Whether the dataset is asked for a batch at once.
        says_when_ready: Whether the training process waits for that, to start others.
    """

    commons: Commons
    dataset: Any
    collate_fn: Callable[[Any], Any]
    worker_init_fn: Callable[[int], None] | None
    worker_id: int
    num_workers: int
    base_seed: int
    auto_collation: bool
    rows: bool
    per_position_seeds: bool
    fetches_batches: bool
    says_when_ready: bool = False


def task_of(loader: Any, commons: Commons, base_seed: int, *, num_workers: int) -> WorkerTask:
    """What the workers of a pass over ``loader`` are given, but for their ids.

    Args:
        loader: The user's.
        commons: Of the pass.
        base_seed: Of the pass.
        num_workers: What ``get_worker_info()`` says of their number.
    """
    in_batches = fetches_batches(loader)
    return WorkerTask(
        commons=commons,
        dataset=loader.dataset,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        worker_id=-1,
        num_workers=num_workers,
        base_seed=base_seed,
        auto_collation=loader._auto_collation,
        rows=loader._auto_collation and not in_batches,
        # The generators of threads are the training loop's, too.
        per_position_seeds=loader.seeding == "position" and not loader.has_threads,
        fetches_batches=in_batches,
    )
