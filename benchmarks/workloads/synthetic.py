"""Workloads of a known cost a sample: skewed waiting, cheap and even CPU work."""

from __future__ import annotations

import time

import torch

from benchmarks.counted import spin
from benchmarks.workloads.spec import IndexedDataset, Sample, Scale, Workload

FAST_S = 0.006
SLOW_FACTOR = 20
SLOW_EVERY = 5
CHEAP_S = 20e-6
CHEAP_SHAPE = (3, 32, 32)
EVEN_S = 2e-3
EVEN_SHAPE = (3, 224, 224)


class WaitingDataset(IndexedDataset):
    """Each sample sleeps, as one that comes over a network does; every fifth 20 times longer."""

    def __init__(self, num_samples: int) -> None:
        self._durations_s = [
            FAST_S * (SLOW_FACTOR if i % SLOW_EVERY == 0 else 1) for i in range(num_samples)
        ]
        self.sleep_s = sum(self._durations_s)

    def __len__(self) -> int:
        return len(self._durations_s)

    def __getitem__(self, index: int) -> Sample:
        time.sleep(self._durations_s[index])
        return torch.full((16,), float(index)), index


class CountedDataset(IndexedDataset):
    """Each sample costs the same counted CPU work and is one float32 tensor."""

    def __init__(self, num_samples: int, num_operations: int, shape: tuple[int, ...]) -> None:
        self._num_samples = num_samples
        self._num_operations = num_operations
        self._shape = shape

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> Sample:
        spin(self._num_operations)
        return torch.full(self._shape, float(index)), index


def _skewed(scale: Scale) -> IndexedDataset:
    return WaitingDataset(scale.num_samples)


def _cheap(scale: Scale) -> IndexedDataset:
    return CountedDataset(scale.num_samples, scale.operations(CHEAP_S), CHEAP_SHAPE)


def _even(scale: Scale) -> IndexedDataset:
    return CountedDataset(scale.num_samples, scale.operations(EVEN_S), EVEN_SHAPE)


SKEWED = Workload(
    name="skewed",
    title="1 in 5 samples 20 times slower, 8 waiting workers, batch 24",
    build=_skewed,
    batch_size=24,
    num_workers=8,
    num_batches={"full": 56, "short": 56, "quick": 4},
    parameters={
        "fast_s": FAST_S,
        "slow_s": FAST_S * SLOW_FACTOR,
        "slow_every": SLOW_EVERY,
        "shape": (16,),
    },
)
CHEAP = Workload(
    name="cheap",
    title="cheap: 20 us, 3x32x32 float32, 2 workers, batch 256",
    build=_cheap,
    batch_size=256,
    num_workers=2,
    num_batches={"full": 700, "short": 400, "quick": 20},
    parameters={"sample_s": CHEAP_S, "shape": CHEAP_SHAPE},
    samples_a_call=64,
)
EVEN = Workload(
    name="even",
    title="even: 2 ms, 3x224x224 float32, 2 workers, batch 64",
    build=_even,
    batch_size=64,
    num_workers=2,
    num_batches={"full": 45, "short": 8, "quick": 2},
    parameters={"sample_s": EVEN_S, "shape": EVEN_SHAPE},
)
