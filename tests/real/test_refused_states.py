"""A state that does not fit is refused, with what differs, before anything is changed."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import Sampler
from torch.utils.data.distributed import DistributedSampler

from hatchway import DataLoader
from hatchway.loader import StateError
from tests.real.resumable import BATCH, NUM_SAMPLES, Noisy, make, seeded


@pytest.mark.parametrize(
    ("saved", "loaded", "said"),
    [
        ({}, {"batch_size": 5}, "batch_size 4, this loader has 5"),
        ({}, {"drop_last": True}, "drop_last False, this loader has True"),
        ({}, {"seeding": "torch"}, "seeding 'position', this loader has 'torch'"),
        ({}, {"shuffle": True}, "sampler 'SequentialSampler', this loader has 'RandomSampler'"),
        (
            {"shuffle": True, "generator": seeded()},
            {"shuffle": True, "generator": torch.Generator().manual_seed(6)},
            "generator seed 5, this loader has 6",
        ),
        ({}, {"dataset": range(7)}, "dataset length 50, this loader has 7"),
        (
            {"sampler": DistributedSampler(Noisy(), num_replicas=2, rank=1)},
            {"sampler": DistributedSampler(Noisy(), num_replicas=2, rank=0)},
            "sampler's rank 1, this loader has 0",
        ),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_a_state_of_another_loader_is_refused(saved: Any, loaded: Any, said: str) -> None:
    state = DataLoader(**{"dataset": Noisy(), "batch_size": BATCH, **saved}).state_dict()
    other = DataLoader(**{"dataset": Noisy(), "batch_size": BATCH, **loaded})
    with pytest.raises(StateError, match=said):
        other.load_state_dict(state)
    assert len(list(other)) == len(other)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda _: None, "not a state"),
        (lambda _: {"epoch": 3}, "not a state"),
        (lambda state: {**state, "version": 2}, "version 2"),
        (lambda state: {"version": 1, "loader": state["loader"]}, "it lacks"),
    ],
)
def test_garbage_is_refused(spoil: Any, said: str) -> None:
    loader = make("shuffle")
    with pytest.raises(StateError, match=said):
        loader.load_state_dict(spoil(loader.state_dict()))


_JUNK: list[Any] = [None, -1, 2**70, 1.5, "x", b"abc", [], [[3, 1]], [[0, 10**12]], {"a": 1}]


def _parts(state: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each part of a state."""
    yield path
    if isinstance(state, dict):
        for name in state:
            yield from _parts(state[name], (*path, name))
    elif isinstance(state, list | tuple):
        for at in range(min(2, len(state))):
            yield from _parts(state[at], (*path, at))


def _with(state: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = dict(state) if isinstance(state, dict) else list(state)
    changed[path[0]] = _with(state[path[0]], path[1:], value)
    return changed


@pytest.mark.parametrize("replays", [False, True])
def test_a_state_with_a_damaged_part_is_refused_or_usable(replays: bool) -> None:
    made = {"order": "ready", "record_order": True}
    loader = make("generator", num_workers=1, **made)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    del iterator
    num_refused = 0
    for path in _parts(state):
        for junk in _JUNK:
            spoilt = _with(state, path, junk)
            other = make("generator", **made, replay=spoilt if replays and path else None)
            before = other.generator.get_state()  # type: ignore[union-attr]
            try:
                if not replays:
                    other.load_state_dict(spoilt)
                iter(other)
            except StateError:
                num_refused += 1
                if not replays and other._passes._loaded is None:
                    assert torch.equal(other.generator.get_state(), before)  # type: ignore[union-attr]
    assert num_refused > 100


@pytest.mark.parametrize("doing", ["dataset", "sampler"])
def test_nothing_is_changed_where_the_users_own_state_is_refused(doing: str) -> None:
    class Refuses(Noisy):
        def state_dict(self) -> dict[str, int]:
            return {}

        def load_state_dict(self, _: Any) -> None:
            raise KeyError("level")

    class RefusingSampler(list[int]):
        state_dict, load_state_dict = Refuses.state_dict, Refuses.load_state_dict

    dataset = Refuses() if doing == "dataset" else Noisy()
    sampler = RefusingSampler(range(NUM_SAMPLES)) if doing == "sampler" else None

    def build() -> DataLoader[Any]:
        return DataLoader(dataset, BATCH, sampler=sampler, generator=seeded())

    first, second = build(), build()
    list(first)  # draws from its generator
    before = second.generator.get_state()
    with pytest.raises(StateError, match="could not be restored"):
        second.load_state_dict(first.state_dict())
    assert torch.equal(second.generator.get_state(), before)


def test_parts_of_batches_cannot_go_on_in_strict_order() -> None:
    loader = make("shuffle", order="ready", num_workers=1)
    iterator = iter(loader)
    next(iterator)
    state = copy.deepcopy(loader.state_dict())
    del iterator
    state["pass"]["progress"]["ranges"] = [(0, 3), (4, 5)]
    with pytest.raises(StateError, match="order='ready'"):
        make("shuffle", order="strict").load_state_dict(state)


def test_a_part_of_a_batch_that_ends_where_the_dataset_does_is_one() -> None:
    sampler = list(range(NUM_SAMPLES)) * 2
    loader = make("sequential", sampler=sampler, order="ready", num_workers=1, timeout=10)
    iterator = iter(loader)
    next(iterator)
    state = copy.deepcopy(loader.state_dict())
    del iterator
    state["pass"]["progress"]["ranges"] = [(0, NUM_SAMPLES)]
    with pytest.raises(StateError, match="order='ready'"):
        make("sequential", sampler=sampler, order="strict").load_state_dict(state)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_sampler_that_yields_something_else_is_refused(num_workers: int) -> None:
    class Unseeded(Sampler[int]):
        def __iter__(self) -> Any:
            return iter(random.SystemRandom().sample(range(NUM_SAMPLES), NUM_SAMPLES))

        def __len__(self) -> int:
            return NUM_SAMPLES

    loader = DataLoader(Noisy(), BATCH, sampler=Unseeded(), num_workers=num_workers)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    del iterator
    loader.load_state_dict(state)
    with pytest.raises(StateError, match="does not yield what it yielded"):
        list(loader)
