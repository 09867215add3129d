"""The sampler is read no further ahead than stock torch reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch.utils.data
from torch.utils.data import Sampler

from hatchway import DataLoader
from tests.real.gates import PATIENCE_S

pytestmark = pytest.mark.real
NUM_SAMPLES = 120


class Counting(Sampler[int]):
    """Counts what was drawn from it."""

    def __init__(self) -> None:
        self.num_drawn = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(NUM_SAMPLES):
            self.num_drawn += 1
            yield number

    def __len__(self) -> int:
        return NUM_SAMPLES


class Batches(Counting):
    """Batches of two; counts batches."""

    def __iter__(self) -> Iterator[Any]:
        for number in range(0, NUM_SAMPLES, 2):
            self.num_drawn += 1
            yield [number, number + 1]

    def __len__(self) -> int:
        return NUM_SAMPLES // 2


def drawn(loader_class: Any, arguments: dict[str, Any]) -> list[int]:
    """How much was drawn after 0, 1, 2, ... batches."""
    arguments = dict(arguments)
    own = arguments.pop("own", False)
    sampler = Batches() if own else Counting()
    arguments |= {"batch_sampler": sampler} if own else {"sampler": sampler}
    iterator = iter(loader_class(range(NUM_SAMPLES), timeout=PATIENCE_S, **arguments))
    counts = [sampler.num_drawn]
    for _ in iterator:
        counts.append(sampler.num_drawn)
    return counts


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 3, "num_workers": 1, "prefetch_factor": 3},
        {"batch_size": 3, "num_workers": 2, "prefetch_factor": 3},
        {"batch_size": 32, "num_workers": 1},
        {"batch_size": 3, "num_workers": 2, "prefetch_factor": 1},
        {"batch_size": 1, "num_workers": 2, "prefetch_factor": 4},
        {"batch_size": None, "num_workers": 2, "prefetch_factor": 5},
        {"num_workers": 2, "own": True},
    ],
    ids=str,
)
def test_the_sampler_is_read_exactly_as_far_as_torch_reads_it(
    arguments: dict[str, Any], order: str
) -> None:
    theirs = drawn(torch.utils.data.DataLoader, arguments)
    assert drawn(DataLoader, arguments | {"order": order}) == theirs


def test_one_batch_ahead_is_never_all_that_is_read() -> None:
    # Differs from torch: with a window of one the next samples could not begin
    # before the training loop takes the batch they come after.
    one = {"batch_size": 3, "num_workers": 1, "prefetch_factor": 1}
    assert drawn(torch.utils.data.DataLoader, one)[:3] == [3, 6, 9]
    assert drawn(DataLoader, one)[:3] == [6, 9, 12]


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_by_default_small_batches_are_read_at_least_64_samples_ahead(order: str) -> None:
    # Differs from torch, which would read 2 batches of 3.
    found = drawn(DataLoader, {"batch_size": 3, "num_workers": 1, "order": order})
    assert found[0] == 66
    assert found[1:5] == [69, 72, 75, 78]
