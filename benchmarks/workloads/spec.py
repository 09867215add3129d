"""What a workload is: a dataset, and how a loader is asked to load it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.utils.data import Dataset

Sample = tuple[torch.Tensor, int]
Length = Literal["full", "short", "quick"]


class IndexedDataset(Dataset[Sample]):
    """A map-style dataset whose sample ``i`` is a tensor and ``i`` itself.

    ``sleep_s`` is the time that all samples together sleep; 0 for CPU work.
    """

    sleep_s: float = 0.0

    def __len__(self) -> int:
        raise NotImplementedError


@dataclass(frozen=True)
class Scale:
    """What a dataset is built from: its size, the run's seed, the calibrated units of work.

    Attributes:
        operation_s: Seconds of one operation of ``counted.spin``.
        noise_value_s: Seconds of one value of ``counted.noise``.
    """

    num_samples: int
    seed: int
    operation_s: float
    noise_value_s: float

    def operations(self, duration_s: float) -> int:
        """Operations of counted work that last ``duration_s`` on an idle core."""
        return max(1, round(duration_s / self.operation_s))

    def noise_values(self, duration_s: float) -> int:
        """Values of counted noise that last ``duration_s`` on an idle core."""
        return max(1, round(duration_s / self.noise_value_s))


@dataclass(frozen=True)
class Workload:
    """One column of the table of results.

    Attributes:
        num_batches: Of an epoch, by its length: *full* lasts 2 to 5 s at the
            limit; *short* is for the price of starting up, 0.5 to 1.5 s where
            samples are small; *quick* only shows that all works.
        demands: Of the device over the workers' capacity, unless a run says otherwise.
        samples_a_call: How many samples a worker should be handed at once by loaders
            that hand out single ones: more than one where they are cheap.
    """

    name: str
    title: str
    build: Callable[[Scale], IndexedDataset]
    batch_size: int
    num_workers: int
    num_batches: Mapping[Length, int]
    parameters: dict[str, Any] = field(default_factory=dict)
    demands: tuple[float, ...] = (1.0,)
    samples_a_call: int = 1

    def num_samples(self, length: Length) -> int:
        """Samples of an epoch; every batch is full."""
        return self.batch_size * self.num_batches[length]
