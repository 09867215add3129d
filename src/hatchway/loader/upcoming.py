"""What a loader's sampler will yield in its next pass, without touching it.

Only where that is known for sure to be a pure matter of what can be copied: torch's own
samplers, lists and ranges. What is foreseen is compared with what the sampler yields then,
so that a wrong guess costs work, never the order.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

_RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
_REPEATABLE = (SequentialSampler, list, tuple, range)


_MOST_WRONG = 2


class OrderForecast:
    """Foresees what the sampler of ``loader`` yields in the pass after the present one."""

    def __init__(self, loader: Any) -> None:
        self._index_sampler = loader._index_sampler
        is_batched = type(self._index_sampler) is BatchSampler
        self._inner = self._index_sampler.sampler if is_batched else self._index_sampler
        self._state: torch.Tensor | None = None
        self._epochs_apart = 1
        self._last_epoch: int | None = None
        self._num_wrong = 0

    def begin(self) -> None:
        """A pass has begun, and its sampler has drawn its random numbers."""
        inner = self._inner
        if type(inner) in _RANDOM and inner.generator is None:
            self._state = torch.get_rng_state()
        if type(inner) is DistributedSampler:
            if self._last_epoch is not None:
                self._epochs_apart = inner.epoch - self._last_epoch
            self._last_epoch = inner.epoch

    def judge(self, *, was_right: bool) -> None:
        """The next pass has begun as it was foreseen, or not."""
        self._num_wrong = 0 if was_right else self._num_wrong + 1

    def upcoming(self) -> Iterator[Any] | None:
        """What the sampler will yield in the next pass; None where that is not known.

        Not known is it for samplers of other kinds, where the training loop draws from
        the global generator that the sampler draws from, and after two wrong guesses.
        """
        if self._num_wrong >= _MOST_WRONG:
            return None
        if self._state is not None and not torch.equal(self._state, torch.get_rng_state()):
            return None
        foreseen = self._foreseen()
        if foreseen is None:
            return None
        if self._inner is not self._index_sampler:
            size, drop_last = self._index_sampler.batch_size, self._index_sampler.drop_last
            foreseen = BatchSampler(foreseen, size, drop_last)
        return _quiet(iter(foreseen))

    def _foreseen(self) -> Any:
        sampler = self._inner
        if type(sampler) in _REPEATABLE:
            return sampler
        if type(sampler) not in (*_RANDOM, DistributedSampler):
            return None
        twin = copy.copy(sampler)
        if type(sampler) is DistributedSampler:
            twin.epoch = sampler.epoch + self._epochs_apart
        elif sampler.generator is not None:
            twin.generator = sampler.generator.clone_state()
        return twin


def _quiet(foreseen: Iterator[Any]) -> Iterator[Any]:
    """Yield what ``foreseen`` does; torch's global generator stays as it is."""
    # torch's samplers draw from it for the first item only, or never.
    with torch.random.fork_rng(devices=[]):
        first = next(foreseen, None)
    if first is not None:
        yield first
        yield from foreseen
