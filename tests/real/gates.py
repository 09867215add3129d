"""Datasets whose samples wait for something to happen, instead of for time to pass."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch.utils.data import Dataset

CONTEXT = multiprocessing.get_context("fork")
# Far beyond what a starved machine needs, and below the test's own timeout.
PATIENCE_S = 40.0


class Gated(Dataset[Any]):
    """Sample n is ``tensor([n])``.

    Args:
        num_samples: The dataset's length.
        held: Samples that wait until :attr:`gate` is set.
        after: For a sample, the other one that must have run before it ends.
    """

    def __init__(
        self, num_samples: int, held: Collection[int] = (), after: Mapping[int, int] | None = None
    ) -> None:
        self.num_samples = num_samples
        self.held = frozenset(held)
        self.after = dict(after or {})
        self.gate: Any = CONTEXT.Event()
        self.num_runs: Any = CONTEXT.RawArray("i", num_samples)
        self.ended = {number: CONTEXT.Event() for number in self.after.values()}

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, number: int) -> torch.Tensor:
        self.num_runs[number] += 1
        if number in self.held and not self.gate.wait(PATIENCE_S):
            raise TimeoutError(f"the gate of sample {number} stayed shut")
        if number in self.after and not self.ended[self.after[number]].wait(PATIENCE_S):
            raise TimeoutError(f"sample {self.after[number]} did not run before {number}")
        if number in self.ended:
            self.ended[number].set()
        return torch.tensor([number])


def until(condition: Callable[[], bool]) -> bool:
    """Wait for what other processes bring about; whether it came."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def numbers(batch: torch.Tensor) -> list[int]:
    """The samples of a batch of a :class:`Gated` dataset."""
    return batch.flatten().tolist()
