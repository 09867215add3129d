"""A small model, trained one epoch at a time and tested class by class."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.accuracy.digits import NUM_CLASSES

NUM_HIDDEN = 128
MOMENTUM = 0.9


@dataclass(frozen=True)
class TrainedEpoch:
    """What one epoch delivered, and how long it took.

    Attributes:
        batches: The indices of each batch.
        seconds: From before the loader was built to the end of the last step.
    """

    batches: list[list[int]]
    seconds: float


class Learner:
    """A perceptron of one hidden layer, whose first weights depend on ``seed`` alone."""

    def __init__(self, seed: int, learning_rate: float) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = nn.Sequential(
                nn.Linear(64, NUM_HIDDEN), nn.ReLU(), nn.Linear(NUM_HIDDEN, NUM_CLASSES)
            )
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=learning_rate, momentum=MOMENTUM
        )
        self._digest = hashlib.sha256()

    def train(self, build: Callable[[], Iterable[Any]]) -> TrainedEpoch:
        """Take one step for each batch of the loader that ``build`` gives."""
        batches = []
        start = end = time.perf_counter()
        for images, labels, indices in build():
            for tensor in (images, labels, indices):
                self._digest.update(tensor.numpy().tobytes())
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(images), labels).backward()
            self.optimizer.step()
            batches.append(indices.tolist())
            end = time.perf_counter()
        return TrainedEpoch(batches, end - start)

    def test(self, images: torch.Tensor, labels: torch.Tensor) -> list[int]:
        """Count the right answers of each class."""
        with torch.no_grad():
            is_right = self.model(images).argmax(dim=1) == labels
        return torch.bincount(labels[is_right], minlength=NUM_CLASSES).tolist()

    def batches_sha256(self) -> str:
        """Digest every byte of every batch so far."""
        return self._digest.hexdigest()

    def weights_sha256(self) -> str:
        """Digest every bit of the weights."""
        digest = hashlib.sha256()
        for tensor in self.model.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()
