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
