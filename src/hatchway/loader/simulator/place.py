"""Where one simulated loader runs, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hatchway.loader.simulator.clock import Cores, Timeline
from hatchway.loader.simulator.setting import Setting


@dataclass(frozen=True)
class Place:
    """What every kind of simulated loader of one device is given.

    Attributes:
        timeline: The clock.
        cores: What samples run on.
        setting: The job.
        rank: Of the device.
        times_s: Seconds of each sample, by the dataset's index.
        order: The device's samples.
    """

    timeline: Timeline
    cores: Cores
    setting: Setting
    rank: int
    times_s: Sequence[float]
    order: NDArray[np.int64]

    @property
    def num_workers(self) -> int:
        """The device's share of the workers."""
        return self.setting.workers_of(self.rank)

    @property
    def order_times_s(self) -> NDArray[np.float64]:
        """Seconds of each of the device's samples, in their order."""
        return np.asarray(self.times_s, np.float64)[self.order]
