"""What came of a simulated epoch, in figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Outcome:
    """One epoch of one loader.

    Attributes:
        epoch_s: From the beginning to the end of the last step.
        limit_s: The least that it could take on so many workers: the samples alone,
            or the devices' steps alone.
        step_s: Seconds of the devices for a batch each.
        first_batch_s: Until every device has its first batch.
        wait_s: How long the devices waited after that.
        longest_wait_s: The longest of these waits.
        late_samples: Places after its turn that a sample came, by quantile (0.5, 0.99,
            1.0), over all samples of all devices.
        late_batches_p99: Batches after the one that torch puts it in, by the 99th percentile.
        num_background_workers: Workers that were started beyond those asked for.
        delivered: The batches of each device, as places in its order.
    """

    epoch_s: float
    limit_s: float
    step_s: float
    num_batches: int
    num_samples: int
    first_batch_s: float
    wait_s: float
    longest_wait_s: float
    late_samples: tuple[int, int, int]
    late_batches_p99: int
    num_background_workers: int
    delivered: tuple[tuple[NDArray[np.int64], ...], ...] = field(repr=False, compare=False)

    @property
    def over_limit(self) -> float:
        """The epoch over the limit."""
        return self.epoch_s / self.limit_s if self.limit_s else 1.0

    @property
    def busy_share(self) -> float:
        """The share of the epoch in which the devices worked."""
        return self.num_batches * self.step_s / self.epoch_s if self.epoch_s else 1.0

    @property
    def wait_share(self) -> float:
        """The share of the time after the first batch in which the devices waited."""
        steady_s = self.epoch_s - self.first_batch_s
        return self.wait_s / steady_s if steady_s else 0.0


def lateness(
    delivered: Sequence[Sequence[NDArray[np.int64]]], batch_size: int
) -> tuple[tuple[int, int, int], int]:
    """How late samples came: quantiles (0.5, 0.99, 1.0) in places, and the 99th in batches.

    Args:
        delivered: For each device its batches, as places in its order.
        batch_size: Samples in a batch.
    """
    samples, batches = [], []
    for of_rank in delivered:
        came = np.concatenate(of_rank)
        number = np.repeat(np.arange(len(of_rank)), [len(batch) for batch in of_rank])
        samples.append(np.arange(len(came)) - came)
        batches.append(number - came // batch_size)
    late = np.concatenate(samples).clip(min=0)
    quantiles = _quantile(late, 0.5), _quantile(late, 0.99), int(late.max())
    return quantiles, _quantile(np.concatenate(batches).clip(min=0), 0.99)


def _quantile(late: NDArray[np.int64], probability: float) -> int:
    return int(np.quantile(late, probability, method="inverted_cdf"))
