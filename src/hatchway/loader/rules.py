"""What batches are made of."""

from __future__ import annotations

from typing import NamedTuple


class DeliveryRules(NamedTuple):
    """What batches are made of.

    Attributes:
        fixed: Outgoing batches are the home batches.
        in_order: Outgoing batches leave in their order.
        batch_size: Samples in a batch that is made freely.
        drop_last: Whether a smaller last batch is dropped.
        depth: How many batches may be made ahead, if made freely.
        max_displacement: How many positions after its turn a sample may leave, if
            batches are made freely; None for any number.
        replays: Whether a recorded order may be replayed: then a batch of the sampler's is
            no batch that leaves.
        filled_from: The rank of the first sample of a batch that Accelerate filled up: it is
            planned when all before it are finished, so that what fills it up leaves last. -1
            where there is none.
        rows_are_batch: The rows of a home batch's block are its collated form,
            so that a complete home batch needs no collating.
    """

    fixed: bool
    in_order: bool
    batch_size: int
    drop_last: bool
    depth: int
    rows_are_batch: bool
    max_displacement: int | None = None
    replays: bool = False
    filled_from: int = -1

    @property
    def may_be_whole(self) -> bool:
        """Whether a batch of the sampler's may be collated whole, to leave as it is.

        Not where it could overtake what a failure left of the batch before it too far.
        """
        return not self.replays and self.max_displacement is None

    @property
    def may_overtake(self) -> bool:
        """Whether a batch that is ready may leave before one that is still collated."""
        return not (self.in_order or self.replays or self.max_displacement is not None)
