"""What is simulated: samples, workers, devices, and what a loader's own work costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Costs:
    """What a loader takes beyond the samples' own time; all 0 for a loader without cost.

    Attributes:
        sample_s: For each sample: seeding, writing, handing over.
        copy_s: For each sample of a batch that has to be put together by a copy.
        fork_s: Of the training process, for each worker that it starts, one after the other.
        boot_s: Of a worker, from then until it takes its first sample.
    """

    sample_s: float = 0.0
    copy_s: float = 0.0
    fork_s: float = 0.0
    boot_s: float = 0.0


@dataclass(frozen=True)
class Setting:
    """A data-parallel job: each device has a loader with its share of samples and workers.

    Attributes:
        num_workers: Of all loaders together; each gets its share of them.
        max_workers: With it, ``num_workers`` is what Hatchway begins with, of each loader, and
            follows the load up to this many (``num_workers="auto"``).
        step_s: Seconds of the devices for a batch each; None for demand equal to
            capacity: as long as the workers take for them.
        batch_size: Samples a batch, of each device.
        prefetch_factor: Batches ahead for each worker, as in torch.
        num_cores: How many samples run at full speed at once, on all workers together;
            None where samples wait, so that all do.
        seed: Of the shuffling.
        max_displacement, max_background_workers: As in ``hatchway.DataLoader``, of each loader.
        costs: What every loader takes beyond the samples' own time.
    """

    num_workers: int
    num_devices: int = 1
    step_s: float | None = None
    batch_size: int = 1
    prefetch_factor: int = 2
    num_cores: float | None = None
    seed: int = 0
    max_displacement: int | None = None
    max_background_workers: int | None = None
    max_workers: int | None = None
    costs: Costs = Costs()

    def __post_init__(self) -> None:
        for name in ("num_workers", "num_devices", "batch_size", "prefetch_factor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.num_workers < self.num_devices:
            raise ValueError(
                f"num_workers must be at least num_devices ({self.num_devices}), since each "
                f"device's loader has workers of its own, not {self.num_workers}"
            )
        if self.max_workers is not None and self.max_workers < self.workers_of(0):
            raise ValueError(
                f"max_workers must be at least what a device's loader begins with "
                f"({self.workers_of(0)}), not {self.max_workers}"
            )
        if self.step_s is not None and not 0 <= self.step_s < math.inf:
            raise ValueError(f"step_s must be a number of seconds or None, not {self.step_s}")
        if self.num_cores is not None and not 0 < self.num_cores < math.inf:
            raise ValueError(f"num_cores must be above 0 or None, not {self.num_cores}")

    def workers_of(self, rank: int) -> int:
        """How many workers the loader of this device has."""
        share, rest = divmod(self.num_workers, self.num_devices)
        return share + (rank < rest)


@dataclass(frozen=True)
class Epoch:
    """The samples of one epoch.

    Attributes:
        times_s: Seconds of each sample of the dataset, by its index.
        orders: The dataset's indices in each device's order.
    """

    times_s: Sequence[float]
    orders: tuple[NDArray[np.int64], ...]

    def num_batches(self, batch_size: int) -> int:
        """Batches of each device: all have as many samples."""
        return -(-len(self.orders[0]) // batch_size)

    def work_s(self, rank: int) -> float:
        """Seconds that the samples of a device take, one after the other."""
        return float(np.asarray(self.times_s)[self.orders[rank]].sum())


def deal(order: Sequence[int], num_devices: int) -> tuple[NDArray[np.int64], ...]:
    """Deal an order to the devices as ``DistributedSampler`` does.

    Each gets every ``num_devices``-th sample; where they do not come out even, the
    first ones come once more at the end.
    """
    dealt = np.asarray(order, np.int64)
    total = -(-len(dealt) // num_devices) * num_devices
    dealt = np.resize(dealt, total)
    return tuple(dealt[rank::num_devices] for rank in range(num_devices))


def shuffled(num_samples: int, seed: int, epoch: int) -> list[int]:
    """The order of an epoch, by the seed and the epoch's number."""
    order: list[int] = np.random.default_rng((seed, epoch)).permutation(num_samples).tolist()
    return order


def work_limit_s(epoch: Epoch, setting: Setting) -> float:
    """How long the samples alone take at best: evenly split, and no shorter than the longest."""
    shares = (epoch.work_s(rank) / setting.workers_of(rank) for rank in range(setting.num_devices))
    longest_s = float(max(np.asarray(epoch.times_s)[order].max() for order in epoch.orders))
    limit_s = max(*shares, longest_s)
    if setting.num_cores is not None:
        work_s = sum(epoch.work_s(rank) for rank in range(setting.num_devices))
        limit_s = max(limit_s, work_s / min(setting.num_workers, setting.num_cores))
    return limit_s


def step_s(epoch: Epoch, setting: Setting) -> float:
    """Seconds of the devices for a batch each: as said, or demand equal to capacity."""
    if setting.step_s is not None:
        return setting.step_s
    return work_limit_s(epoch, setting) / epoch.num_batches(setting.batch_size)
