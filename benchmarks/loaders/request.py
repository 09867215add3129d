"""What every loader is asked for: the same samples, in the same order, on as many workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import RandomSampler, default_collate

# Batches that may be made ahead, for each worker: torch's default, given to every
# loader that lets it be set, so that none is faster for the memory it takes.
BATCHES_AHEAD_A_WORKER = 2


@dataclass(frozen=True)
class Request:
    """A loader over ``dataset`` that yields (tensors, indices), every index once an epoch.

    Attributes:
        sampler: Gives the order; iterated anew for each epoch.
        num_workers: Samples that may be made at once, in processes or threads.
        collate_fn: From a list of samples to a batch; None for torch's default.
        num_epochs: How often the loader will be iterated. Above 1, its workers stay
            between the epochs where it can keep them.
        samples_a_call: How many samples a worker should be handed at once where they
            are cheap, by loaders that otherwise hand out single ones.
    """

    dataset: Any
    sampler: Any
    batch_size: int
    num_workers: int
    collate_fn: Callable[[list[Any]], Any] | None = None
    num_epochs: int = 1
    samples_a_call: int = 1

    @property
    def collate(self) -> Callable[[list[Any]], Any]:
        """The function that makes a batch."""
        return self.collate_fn or default_collate

    @property
    def num_batches_ahead(self) -> int:
        """Batches that may lie ready, of all workers together."""
        return BATCHES_AHEAD_A_WORKER * self.num_workers


Build = Callable[[Request], Iterable[Any]]


def shuffled(dataset: Any, seed: int) -> RandomSampler:
    """A sampler whose order depends on ``seed`` alone, however often a loader draws."""
    return RandomSampler(dataset, generator=torch.Generator().manual_seed(seed))
