"""A state that does not fit is refused, with what differs, before anything is changed."""

from __future__ import annotations

import copy
import random
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
