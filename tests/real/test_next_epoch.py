"""What the next pass begins with is made while the last samples of this one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import (
    Dataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from hatchway import DataLoader
from tests.real.gates import until

NUM_SAMPLES = 40
BATCH = 4


class Counted(Dataset[Any]):
    """Counts, in shared memory, how often each index was loaded."""

    def __init__(self) -> None:
        self.counts = torch.zeros(NUM_SAMPLES, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> tuple[int, float]:
        self.counts[index] += 1
        return index, torch.rand(()).item()


def _loader(dataset: Dataset[Any], **arguments: Any) -> DataLoader[Any]:
    torch.manual_seed(7)
    return DataLoader(
        dataset, BATCH, num_workers=2, persistent_workers=True, timeout=30, **arguments
    )


def _passes(loader: DataLoader[Any], num: int, between: Callable[[int], None]) -> list[Any]:
    found = []
    for number in range(num):
        between(number)
        batches = [(index.tolist(), value.tolist()) for index, value in loader]
        found.append(batches)
    return found


class Own(Sampler[int]):
    """A sampler of the user's."""

    def __iter__(self) -> Any:
        return iter(torch.randperm(NUM_SAMPLES).tolist())

    def __len__(self) -> int:
        return NUM_SAMPLES


SAMPLERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "sequential": lambda _: {},
    "shuffle": lambda _: {"shuffle": True},
    "generator": lambda _: {"shuffle": True, "generator": torch.Generator().manual_seed(3)},
    "subset": lambda _: {"sampler": SubsetRandomSampler(range(5, 30))},
    "weighted": lambda _: {"sampler": WeightedRandomSampler([1.0] * NUM_SAMPLES, 30)},
    "replacement": lambda d: {"sampler": RandomSampler(d, replacement=True, num_samples=50)},
    "list": lambda _: {"sampler": list(range(NUM_SAMPLES))[::-1]},
    "distributed": lambda d: {"sampler": DistributedSampler(d, num_replicas=2, rank=1)},
    "own": lambda _: {"sampler": Own()},
    "drop_last": lambda _: {"sampler": SubsetRandomSampler(range(30)), "drop_last": True},
}


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_each_pass_is_what_it_would_be_without(name: str, order: str) -> None:
    found = []
    for prepare in (False, True):
        dataset = Counted()
        loader = _loader(
            dataset, order=order, prepare_next_epoch=prepare, **SAMPLERS[name](dataset)
        )

        def between(number: int, loader: Any = loader) -> None:
            if name == "distributed":
                loader.sampler.set_epoch(number)

        passes = _passes(loader, 4, between)
        if order == "ready":
            passes = [
                sorted(zip(*map(_flat, zip(*one, strict=True)), strict=True)) for one in passes
            ]
        found.append(passes)
        loader._iterator = None
    assert found[0] == found[1]


def _flat(lists: Any) -> list[Any]:
    return [item for one in lists for item in one]


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "own"])
def test_the_next_pass_is_made_before_it_is_asked_for(name: str) -> None:
    dataset = Counted()
    loader = _loader(dataset, **SAMPLERS[name](dataset))
    num = sum(len(index) for index, _ in loader)
    assert until(lambda: int(dataset.counts.sum()) > num), "nothing was made ahead"
    loader._iterator = None


@pytest.mark.parametrize(
    ("name", "more"), [("own", {}), ("shuffle", {"prepare_next_epoch": False})]
)
def test_nothing_is_made_ahead_where_nothing_should_be(name: str, more: dict[str, Any]) -> None:
    dataset = Counted()
    loader = _loader(dataset, **SAMPLERS[name](dataset), **more)
    assert sum(len(index) for index, _ in loader) == int(dataset.counts.sum())
    assert not loader._iterator._plan.has_prepared
    loader._iterator = None


def test_an_order_that_was_foreseen_wrongly_is_dropped() -> None:
    dataset = Counted()
    loader = _loader(dataset, shuffle=True)

    def between(number: int) -> None:
        torch.manual_seed(number + 100)

    for prepare in (True, False):
        other = _loader(dataset, shuffle=True, prepare_next_epoch=prepare)
        passes = _passes(other, 3, between)
        if prepare:
            expected = passes
        assert [sorted(_flat(index for index, _ in one)) for one in passes] == [
            list(range(NUM_SAMPLES))
        ] * 3
        other._iterator = None
    assert {i: v for one in passes[2] for i, v in zip(*one, strict=True)} == {
        i: v for one in expected[2] for i, v in zip(*one, strict=True)
    }
    loader._iterator = None


def test_a_sampler_that_changes_between_passes_is_followed() -> None:
    order = list(range(NUM_SAMPLES))
    loader = _loader(Counted(), sampler=order)
    assert _flat(index for index, _ in _passes(loader, 1, lambda _: None)[0]) == order
    order.reverse()
    del order[10:]
    assert _flat(index for index, _ in _passes(loader, 1, lambda _: None)[0]) == order
    loader._iterator = None


def test_a_pass_that_is_given_up_after_one_that_was_made_ahead() -> None:
    loader = _loader(Counted(), order="strict")
    for _ in range(3):
        assert sum(len(index) for index, _ in loader) == NUM_SAMPLES
        assert next(iter(loader))[0].tolist() == [0, 1, 2, 3]
    loader._iterator = None


def test_a_failure_in_a_sample_made_ahead_is_raised_in_its_own_pass() -> None:
    class FailsLater(Counted):
        def __getitem__(self, index: int) -> tuple[int, float]:
            found = super().__getitem__(index)
            if index == 2 and self.counts[2] > 1:
                raise KeyError(index)
            return found

    loader = _loader(FailsLater(), order="strict")
    assert sum(len(index) for index, _ in loader) == NUM_SAMPLES
    with pytest.raises(KeyError):
        list(loader)
    loader._iterator = None
