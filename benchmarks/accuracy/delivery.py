"""What a loader made of the sampler's order in one epoch: how late, what mix, what was lost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Delivery:
    """One epoch's delivery.

    Attributes:
        late_by: How many positions after its turn each sample came that came at all, by
            position; one that came early counts as 0, one that came twice as the first time.
        slow_late_by: The same of the slow samples alone.
        num_slow_by_batch: Slow samples in each batch.
        num_by_batch: Samples in each batch.
        num_lost: Samples that never came.
        num_doubled: Deliveries beyond the first of a sample.
    """

    late_by: tuple[int, ...]
    slow_late_by: tuple[int, ...]
    num_slow_by_batch: tuple[int, ...]
    num_by_batch: tuple[int, ...]
    num_lost: int
    num_doubled: int


def describe_delivery(
    order: Sequence[int], batches: Sequence[Sequence[int]], slow: Collection[int]
) -> Delivery:
    """Compare the indices of ``batches`` with the sampler's ``order``.

    Raises:
        ValueError: If a batch holds an index that is not in ``order``.
    """
    came_at: dict[int, int] = {}
    num_delivered = 0
    for batch in batches:
        for index in batch:
            came_at.setdefault(index, num_delivered)
            num_delivered += 1
    unknown = came_at.keys() - set(order)
    if unknown:
        raise ValueError(f"batches hold index {min(unknown)}, which is not in order")
    late_by = {
        index: max(0, came_at[index] - position)
        for position, index in enumerate(order)
        if index in came_at
    }
    return Delivery(
        late_by=tuple(late_by.values()),
        slow_late_by=tuple(late for index, late in late_by.items() if index in slow),
        num_slow_by_batch=tuple(sum(index in slow for index in batch) for batch in batches),
        num_by_batch=tuple(map(len, batches)),
        num_lost=len(order) - len(came_at),
        num_doubled=num_delivered - len(came_at),
    )
