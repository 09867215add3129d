"""The state has the conventions of torchdata's StatefulDataLoader, tried side by side."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.stateful import Stateful

from hatchway import DataLoader

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
NUM_SAMPLES = 22


class Squares(Dataset[Any]):
    """Numbers."""

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> int:
        return index * index


def _loader(kind: Any, num_workers: int, **arguments: Any) -> Any:
    return kind(Squares(), 4, num_workers=num_workers, **arguments)


def test_it_is_stateful_by_torchdatas_own_protocol() -> None:
    loader = _loader(DataLoader, 0)
    assert isinstance(loader, Stateful)
    for name in ("state_dict", "load_state_dict"):
        own = inspect.signature(getattr(DataLoader, name)).parameters
        assert list(own) == list(inspect.signature(getattr(StatefulDataLoader, name)).parameters)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_taken", [0, 1, 5, 6, 7])
def test_what_comes_after_a_state_is_what_comes_after_theirs(
    num_workers: int, num_taken: int
) -> None:
    found = []
    for kind in (StatefulDataLoader, DataLoader):
        first = _loader(kind, num_workers)
        iterator = iter(first)
        for _ in range(min(num_taken, 6)):
            next(iterator)
        if num_taken == 7:  # the end was reached
            assert next(iterator, None) is None
        state = first.state_dict()
        del iterator
        second = _loader(kind, num_workers)
        second.load_state_dict(state)
        found.append([[batch.tolist() for batch in second] for _ in range(3)])
    theirs, ours = found
    assert ours == theirs


def test_a_state_before_any_pass_begins_at_the_beginning() -> None:
    for kind in (StatefulDataLoader, DataLoader):
        state = _loader(kind, 2).state_dict()
        loader = _loader(kind, 2)
        loader.load_state_dict(state)
        assert torch.cat(list(loader)).tolist() == [i * i for i in range(NUM_SAMPLES)]
