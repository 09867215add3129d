"""The script that runs once with stock torch and once with Hatchway."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from tests.real.shapes import NUM_SAMPLES, SHAPES, Samples, frozen

# A loader that never delivers is an error long before the test's own timeout.
TIMEOUT_S = 30.0


@dataclass
class Epoch:
    """What the training loop saw."""

    outcomes: list[Any] = field(default_factory=list)  # frozen batches and error types
    samples: Counter[Any] = field(default_factory=Counter)
    errors: Counter[type] = field(default_factory=Counter)
    sizes: list[int] = field(default_factory=list)


def read(loader: Any, unbatch: Any) -> Epoch:
    """One epoch to its end, through the failures of single batches."""
    epoch = Epoch()
    iterator = iter(loader)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return epoch
        except Exception as error:
            epoch.outcomes.append(type(error))
            # Samples of one batch that fail are one error, in "ready" one that names them all.
            epoch.errors[type(error)] += 1 + len(getattr(error.__cause__, "other_positions", ()))
            continue
        samples = unbatch(batch)
        epoch.outcomes.append(frozen(batch))
        epoch.samples.update(frozen(sample) for sample in samples)
        epoch.sizes.append(len(samples))


def run(
    loader_class: Any, shape_name: str, *, num_epochs: int = 1, **arguments: Any
) -> list[Epoch]:
    """Seed, build the loader, read its epochs."""
    shape = SHAPES[shape_name]
    torch.manual_seed(3)
    if arguments.pop("has_generator", False):
        arguments["generator"] = torch.Generator().manual_seed(11)
    if "batch_sampler" not in arguments:
        arguments.setdefault("batch_size", 4)
    single = arguments.get("batch_size", 0) is None
    if arguments.get("num_workers", 0):
        arguments["timeout"] = TIMEOUT_S
    dataset: Dataset[Any] = Samples(shape.make)
    collate_fn = None if single else shape.collate_fn
    loader = loader_class(dataset, collate_fn=collate_fn, **arguments)
    unbatch = as_one if single else shape.unbatch
    return [read(loader, unbatch) for _ in range(num_epochs)]


def as_one(sample: Any) -> list[Any]:
    return [sample]


# An uneven batch sampler that repeats and leaves out samples, and has a lone one.
OWN_BATCHES = [[5, 3], [0, 1, 2, 4, 6], [22], [7, 7, 8], [20, 19, 18, 17], [9, 10, 11], [12]]

SETTINGS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "shuffle": {"shuffle": True},
    "shuffle with a generator": {"shuffle": True, "has_generator": True},
    "drop_last": {"drop_last": True, "shuffle": True},
    "batch_size 1": {"batch_size": 1},
    "batch_size 22, last of one": {"batch_size": 22},
    "batch_size None": {"batch_size": None},
    "own batches": {"batch_sampler": OWN_BATCHES},
    "tuples as keys": {"sampler": [(number, "x") for number in range(NUM_SAMPLES)]},
    "strings as keys": {"sampler": [f"s{number}" for number in reversed(range(NUM_SAMPLES))]},
    "numpy integers as keys": {"sampler": list(np.arange(NUM_SAMPLES))},
    "prefetch_factor 1": {"prefetch_factor": 1},
    "prefetch_factor 4": {"prefetch_factor": 4, "shuffle": True},
    "persistent over 3 epochs": {"persistent_workers": True, "shuffle": True, "num_epochs": 3},
    "3 epochs": {"shuffle": True, "num_epochs": 3},
}
