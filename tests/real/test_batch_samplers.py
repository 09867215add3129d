"""What a batch sampler says is what comes, also where it was put in place of the loader's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch.utils.data

from hatchway import DataLoader
from tests.real.gates import PATIENCE_S

pytestmark = pytest.mark.real
StockLoader = torch.utils.data.DataLoader
NUMBERS = list(range(10))


class Repeated:
    """A batch sampler over and over again."""

    def __init__(self, batch_sampler: Any) -> None:
        self.batch_sampler = batch_sampler

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from self.batch_sampler


def endless(loader_class: Any, **arguments: Any) -> Any:
    """A loader that begins one pass, and gives an epoch after the other from it.

    As the loaders of timm and of Ultralytics do it, to keep their workers.
    """

    class Endless(loader_class):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(NUMBERS, 3, **arguments)
            object.__setattr__(self, "batch_sampler", Repeated(self.batch_sampler))
            self.pass_without_end = super().__iter__()

        def __len__(self) -> int:
            return len(self.batch_sampler.batch_sampler)

        def __iter__(self) -> Iterator[Any]:
            return (next(self.pass_without_end) for _ in range(len(self)))

    return Endless()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_each_epoch_of_an_endless_pass_is_stock_torchs(num_workers: int, shuffle: bool) -> None:
    def epochs(loader_class: Any, num_workers: int) -> list[Any]:
        torch.manual_seed(3)
        loader = endless(loader_class, shuffle=shuffle, num_workers=num_workers)
        return [[batch.tolist() for batch in loader] for _ in range(3)]

    assert epochs(DataLoader, num_workers) == epochs(StockLoader, 0)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize(
    ("name", "value", "sizes"), [("batch_size", 4, [2, 4, 4]), ("drop_last", True, [3, 3, 3])]
)
def test_a_batch_sampler_that_is_changed_later_is_followed(
    num_workers: int, order: str, name: str, value: Any, sizes: list[int]
) -> None:
    loader = DataLoader(
        NUMBERS, 3, shuffle=True, num_workers=num_workers, order=order,
        timeout=PATIENCE_S * (num_workers > 0),
    )  # fmt: skip
    assert len(list(loader)) == 4
    setattr(loader.batch_sampler, name, value)
    batches = [batch.tolist() for batch in loader]
    assert sorted(map(len, batches)) == sizes
    assert len(loader) == len(batches)
    assert len({number for batch in batches for number in batch}) == sum(sizes)


class Says(torch.utils.data.Dataset[Any]):
    """Says what it was asked for at once."""

    def __len__(self) -> int:
        return 6

    def __getitems__(self, indices: Any) -> list[str]:
        return [f"{type(indices).__name__} {index}" for index in indices]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, dict.fromkeys, iter])
def test_a_batch_may_be_anything_that_holds_indices(num_workers: int, kind: Any) -> None:
    batches = [[1, 2], [3], [5, 4, 0]]
    kinds = [kind(batch) for batch in batches]
    loader = DataLoader(NUMBERS, batch_sampler=kinds, num_workers=num_workers)
    assert [batch.tolist() for batch in loader] == batches


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_dataset_that_loads_batches_is_given_lists(num_workers: int) -> None:
    loader = DataLoader(Says(), batch_sampler=[(1, 2), range(2)], num_workers=num_workers)
    assert list(loader) == [["list 1", "list 2"], ["list 0", "list 1"]]


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_workers_leave_out_a_batch_without_indices(order: str) -> None:
    batches: list[list[int]] = [[], [1], [], [2, 3], []]
    here = DataLoader(NUMBERS, batch_sampler=batches, collate_fn=list)
    assert list(here) == list(StockLoader(NUMBERS, batch_sampler=batches, collate_fn=list))
    there = DataLoader(NUMBERS, batch_sampler=batches, collate_fn=list, num_workers=1, order=order)
    assert sorted(there) == [[1], [2, 3]]
