"""Loaders that are saved and go on: their datasets, samplers and samples."""

from __future__ import annotations

import io
import random
import time
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    Dataset,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from hatchway import DataLoader

NUM_SAMPLES = 50
BATCH = 4


class Noisy(Dataset[Any]):
    """An index and random numbers from all three generators; some are slow."""

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        if index % 7 == 0:
            time.sleep(0.01)
        return index, torch.rand(()).item(), float(np.random.rand()), random.random()


class Stateful(Sampler[int]):
    """A sampler of the user's with a state of its own, as torchdata's samplers have."""

    def __init__(self) -> None:
        self.round = 0

    def __iter__(self) -> Any:
        self.round += 1
        return iter(random.Random(self.round).sample(range(NUM_SAMPLES), NUM_SAMPLES))

    def __len__(self) -> int:
        return NUM_SAMPLES

    def state_dict(self) -> dict[str, int]:
        return {"round": self.round}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.round = state["round"]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def dealt() -> DistributedSampler[Any]:
    return DistributedSampler(Noisy(), num_replicas=2, rank=1, seed=3)


SETTINGS: dict[str, Any] = {
    "sequential": lambda: {},
    "shuffle": lambda: {"shuffle": True},
    "generator": lambda: {"shuffle": True, "generator": seeded()},
    "subset": lambda: {"sampler": SubsetRandomSampler(range(3, 40), seeded())},
    "weighted": lambda: {"sampler": WeightedRandomSampler([1.0] * NUM_SAMPLES, 44)},
    "distributed": lambda: {"sampler": dealt()},
    "stateful": lambda: {"sampler": Stateful()},
    "batch_sampler": lambda: {
        "batch_size": 1,
        "batch_sampler": BatchSampler(SequentialSampler(range(NUM_SAMPLES)), 6, False),
    },
    "single": lambda: {"batch_size": None, "shuffle": True, "generator": seeded()},
    "drop_last": lambda: {"shuffle": True, "drop_last": True, "generator": seeded()},
}


def make(name: str, **arguments: Any) -> DataLoader[Any]:
    return DataLoader(Noisy(), **{"batch_size": BATCH, **SETTINGS[name](), **arguments})


def rows_of(batches: Any) -> list[Any]:
    """Every sample of some batches, with its random numbers."""
    found = []
    for batch in batches:
        columns = [np.atleast_1d(np.asarray(column)).tolist() for column in batch]
        found += list(zip(*columns, strict=True))
    return found


def stop(loader: DataLoader[Any]) -> None:
    loader._iterator = None


def pickled(state: Any) -> Any:
    """As a training script saves and loads it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
