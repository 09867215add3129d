"""Samples made of random numbers only; as a script it prints them (``python -m``)."""

from __future__ import annotations

import json
import os
import random
import signal
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hatchway import DataLoader
from tests.real.gates import CONTEXT, PATIENCE_S

NUM_SAMPLES = 12


def draw() -> list[float]:
    """Numbers from the three global generators, the cached normals among them."""
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.normal()),
        float(torch.rand(())),
        float(torch.randn(())),
        float(random.randrange(1 << 40)),
        float(torch.randint(1 << 20, ())),
        float(np.random.randint(1 << 20)),
    ]


class Augmented(Dataset[Any]):
    """Sample n is (n, what the generators gave).

    Args:
        deadly: A sample that kills its worker the first time it is run.
    """

    def __init__(self, deadly: int | None = None) -> None:
        self.deadly = deadly
        self.has_killed = CONTEXT.Event()

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, number: int) -> tuple[int, list[float]]:
        drawn = draw()
        if number == self.deadly and not self.has_killed.is_set():
            self.has_killed.set()
            os.kill(os.getpid(), signal.SIGKILL)
        return number, drawn


def as_list(samples: Any) -> Any:
    return samples


def epochs(num_epochs: int = 1, *, deadly: int | None = None, **arguments: Any) -> list[Any]:
    """For each epoch, what each sample drew, by position; seeded with 7."""
    torch.manual_seed(7)
    if arguments.get("num_workers"):
        arguments |= {"multiprocessing_context": CONTEXT, "timeout": PATIENCE_S}
    arguments.setdefault("batch_size", 4)
    loader = DataLoader(Augmented(deadly), collate_fn=as_list, **arguments)
    return [dict(sample for batch in loader for sample in batch) for _ in range(num_epochs)]


if __name__ == "__main__":
    found = {}
    for num_workers in (0, 1, 2):
        for order in ("strict", "ready"):
            found[f"{num_workers} {order}"] = epochs(2, num_workers=num_workers, order=order)
    print(json.dumps(found))
