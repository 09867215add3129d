"""Replays of recorded preprocessing times: as waiting, and as CPU work.

The times are those of MLPerf's 3D-UNet pipeline on KiTS19 (``benchmarks/data``):
bimodal, the 75th percentile 11 and 19 times the median. All of one recording make an epoch,
each divided by the same number, so that the epoch lasts about 4 s on the workers.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path

import torch

from benchmarks.counted import NOISE_BLOCK, noise
from benchmarks.workloads.spec import IndexedDataset, Sample, Scale, Workload

RECORDINGS = Path(__file__).parent.parent / "data"
SERVER = "kits19-server.csv"
VIRTUAL_MACHINE = "kits19-vm.csv"
WAITING_DIVISOR = 6
COMPUTING_DIVISOR = 30
DEMANDS = (0.8, 1.0, 1.2)
# A thirtieth of the time, and about a thirtieth of the 2 million values of the
# pipeline's samples.
SHAPE = (1, 32, 32, NOISE_BLOCK // 32 // 32)
_BATCH_SIZE = 4
_NUM_BATCHES = {"full": 420, "short": 120, "quick": 8}


def recorded_s(name: str) -> list[float]:
    """Read a recording: seconds, in the order in which the samples ran."""
    with (RECORDINGS / name).open(newline="") as lines:
        return [float(row["seconds"]) for row in csv.DictReader(lines)]


class WaitingReplay(IndexedDataset):
    """Sample ``i`` sleeps the ``i``-th recorded time of the server, divided."""

    def __init__(self, num_samples: int) -> None:
        recorded = recorded_s(SERVER)
        self.durations_s = [
            recorded[i % len(recorded)] / WAITING_DIVISOR for i in range(num_samples)
        ]
        self.sleep_s = sum(self.durations_s)

    def __len__(self) -> int:
        return len(self.durations_s)

    def __getitem__(self, index: int) -> Sample:
        time.sleep(self.durations_s[index])
        return torch.full((16,), float(index)), index


class ComputingReplay(IndexedDataset):
    """Sample ``i`` computes for the ``i``-th recorded time of the virtual machine, divided.

    It draws normal values, as the pipeline's noise does: counted, so that
    contention lengthens it, and without the GIL, so that threads can compete. What
    a sample contains and costs depends on (seed, index) alone.
    """

    def __init__(self, scale: Scale) -> None:
        recorded = recorded_s(VIRTUAL_MACHINE)
        self.num_values = [
            scale.noise_values(recorded[i % len(recorded)] / COMPUTING_DIVISOR)
            for i in range(scale.num_samples)
        ]
        self._seed = scale.seed

    def __len__(self) -> int:
        return len(self.num_values)

    def __getitem__(self, index: int) -> Sample:
        values = noise(self.num_values[index], (self._seed, index))
        return torch.from_numpy(values).reshape(SHAPE), index


def _waiting(scale: Scale) -> IndexedDataset:
    return WaitingReplay(scale.num_samples)


WAITING_REPLAY = Workload(
    name="replay-waiting",
    title=f"KiTS19 times of a server over {WAITING_DIVISOR}, 8 waiting workers, batch 4",
    build=_waiting,
    batch_size=_BATCH_SIZE,
    num_workers=8,
    num_batches=_NUM_BATCHES,
    parameters={"recording": SERVER, "divisor": WAITING_DIVISOR, "shape": (16,)},
    demands=DEMANDS,
)
COMPUTING_REPLAY = Workload(
    name="replay-computing",
    title=f"KiTS19 times of a virtual machine over {COMPUTING_DIVISOR} as CPU work, "
    "2 workers, batch 4",
    build=ComputingReplay,
    batch_size=_BATCH_SIZE,
    num_workers=2,
    num_batches=_NUM_BATCHES,
    parameters={"recording": VIRTUAL_MACHINE, "divisor": COMPUTING_DIVISOR, "shape": SHAPE},
    demands=DEMANDS,
)
