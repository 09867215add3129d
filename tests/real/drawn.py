"""Samples whose random numbers are their own, in processes, threads and without workers."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

import hatchway


class Drawn(Dataset[Any]):
    """Samples with random numbers of their own generator."""

    def __init__(self, num_samples: int = 60, seconds: float = 0.0) -> None:
        self.num_samples, self.seconds = num_samples, seconds

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.seconds:
            time.sleep(self.seconds)
        noise = np.random.default_rng(hatchway.sample_seed()).normal(size=3)
        return {"index": index, "noise": noise, "image": torch.full((3, 8, 8), index)}
