"""Samplers that fail, and batches that are larger than what is planned ahead."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from hatchway import DataLoader

pytestmark = pytest.mark.fault

LARGE = 20_000  # four of them are more than the ring of positions has


class Range(Dataset[Any]):
    def __len__(self) -> int:
        return 10 * LARGE

    def __getitem__(self, index: int) -> int:
        return index


class Failing:
    """Raises after some indices."""

    def __init__(self, num_before: int) -> None:
        self.num_before = num_before

    def __len__(self) -> int:
        return 200

    def __iter__(self) -> Iterator[int]:
        yield from range(self.num_before)
        raise LookupError("no more shards")


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize("num_before", [0, 1, 101])
def test_what_a_sampler_raises_reaches_the_caller_and_ends_the_workers(
    order: str, num_before: int
) -> None:
    loader = DataLoader(
        Range(), 2, sampler=Failing(num_before), num_workers=2, order=order, timeout=30
    )
    iterator = iter(loader)
    # Two at a time, and nothing of what the sampler drew ahead is lost, as it is in torch.
    came = [next(iterator).tolist() for _ in range(num_before // 2)]
    with pytest.raises(LookupError, match="no more shards") as caught:
        next(iterator)
    assert sorted(chain.from_iterable(came)) == list(range(num_before // 2 * 2))
    assert caught.traceback[-1].name == "__iter__"
    with pytest.raises(StopIteration):
        next(iterator)


def summary(samples: list[int]) -> torch.Tensor:
    return torch.tensor([samples[0], samples[-1], len(samples)])


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_batches_larger_than_what_fits_ahead_are_whole(order: str) -> None:
    batches = [list(range(first, first + LARGE)) for first in range(0, 10 * LARGE, LARGE)]
    loader = DataLoader(
        Range(),
        batch_sampler=batches,
        num_workers=2,
        order=order,
        collate_fn=summary,
        timeout=30,
    )
    found = sorted(batch.tolist() for batch in loader)
    assert found == [[batch[0], batch[-1], LARGE] for batch in batches]


def test_a_batch_that_can_never_be_planned_is_refused() -> None:
    loader = DataLoader(
        Range(), batch_sampler=[list(range(70_000))], num_workers=1, collate_fn=summary, timeout=30
    )
    with pytest.raises(ValueError, match="use smaller batches"):
        list(loader)
