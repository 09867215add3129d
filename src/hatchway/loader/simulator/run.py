"""Run epochs of a simulated job with one kind of loader."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hatchway.loader.costmodel import CostModel
from hatchway.loader.simulator.clock import Cores, Timeline
from hatchway.loader.simulator.device import Devices, TrainingLoop
from hatchway.loader.simulator.fast_first import FastFirstLoader, Profile
from hatchway.loader.simulator.outcome import Outcome, lateness
from hatchway.loader.simulator.place import Place
from hatchway.loader.simulator.reordering import HatchwayLoader
from hatchway.loader.simulator.setting import (
    Epoch,
    Setting,
    deal,
    shuffled,
    step_s,
    work_limit_s,
)
from hatchway.loader.simulator.stock import StockLoader

AnyLoader = HatchwayLoader | StockLoader | FastFirstLoader
Make = Callable[[Timeline, Cores, int, NDArray[np.int64]], AnyLoader]

TITLES = {
    "torch": "torch, in order",
    "torch-unordered": "torch, in_order=False",
    "minato-paper": "MinatoLoader (paper: p75, resumed)",
    "minato-artifact": "MinatoLoader (artifact: 2 s, restarted)",
    "strict": 'Hatchway, order="strict"',
    "ready": 'Hatchway, order="ready"',
}
LOADERS = tuple(TITLES)


class Job:
    """One kind of loader on a list of sample times, epoch after epoch.

    What a loader learns of its samples (Hatchway's costs, MinatoLoader's cut) it keeps
    from one epoch to the next; its workers start anew in each.

    Args:
        loader: One of ``LOADERS``.
        times_s: Seconds of each sample of the dataset, by its index.
        setting: The job.

    Raises:
        ValueError: If there is no such loader, or no sample.
    """

    def __init__(self, loader: str, times_s: Sequence[float], setting: Setting) -> None:
        if loader not in LOADERS:
            raise ValueError(f"loader must be one of {', '.join(LOADERS)}, not {loader!r}")
        if not len(times_s):
            raise ValueError("times_s must hold the seconds of at least one sample, not none")
        self._loader = loader
        self._times_s = times_s
        self._setting = setting
        ranks = range(setting.num_devices)
        # Each device's process learns from its own samples only.
        self._models = [CostModel(len(times_s)) for _ in ranks]
        is_paper = loader == "minato-paper"
        self._profiles = [Profile.of_paper() if is_paper else Profile.of_artifact() for _ in ranks]

    def run(self, order: Sequence[int]) -> Outcome:
        """Simulate an epoch of the dataset's indices in ``order``."""
        setting = self._setting
        epoch = Epoch(self._times_s, deal(order, setting.num_devices))
        timeline = Timeline()
        cores = Cores(timeline, setting.num_cores)
        a_step_s = step_s(epoch, setting)
        devices = Devices(timeline, a_step_s, setting.num_devices)
        loaders = [
            self._make(timeline, cores, rank, share) for rank, share in enumerate(epoch.orders)
        ]
        loops = [
            TrainingLoop(rank, loader, devices, len(share))
            for rank, (loader, share) in enumerate(zip(loaders, epoch.orders, strict=True))
        ]
        for loop in loops:
            loop.begin()
        timeline.run()
        late_samples, late_batches_p99 = lateness(
            [loop.delivered for loop in loops], setting.batch_size
        )
        num_batches = epoch.num_batches(setting.batch_size)
        return Outcome(
            epoch_s=devices.end_s,
            limit_s=max(work_limit_s(epoch, setting), num_batches * a_step_s),
            step_s=a_step_s,
            num_batches=devices.num_steps,
            num_samples=sum(len(batch) for loop in loops for batch in loop.delivered),
            first_batch_s=devices.first_s,
            wait_s=sum(devices.waits_s),
            longest_wait_s=max(devices.waits_s, default=0.0),
            late_samples=late_samples,
            late_batches_p99=late_batches_p99,
            num_background_workers=sum(loader.num_background_workers for loader in loaders),
            delivered=tuple(tuple(loop.delivered) for loop in loops),
        )

    def _make(
        self, timeline: Timeline, cores: Cores, rank: int, order: NDArray[np.int64]
    ) -> AnyLoader:
        place = Place(timeline, cores, self._setting, rank, self._times_s, order)
        if self._loader.startswith("torch"):
            return StockLoader(place, in_order=self._loader == "torch")
        if self._loader.startswith("minato"):
            return FastFirstLoader(place, self._profiles[rank])
        return HatchwayLoader(place, self._models[rank], is_free=self._loader == "ready")


def simulate(
    loader: str, times_s: Sequence[float], setting: Setting, num_epochs: int = 1
) -> list[Outcome]:
    """Simulate shuffled epochs, one after the other.

    Args:
        loader: One of ``LOADERS``.
        times_s: Seconds of each sample of the dataset, by its index.
        setting: The job.
        num_epochs: How many.
    """
    job = Job(loader, times_s, setting)
    return [job.run(shuffled(len(times_s), setting.seed, epoch)) for epoch in range(num_epochs)]
