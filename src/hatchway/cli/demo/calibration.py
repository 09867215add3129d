"""What a sample costs here, and how to pace a stand-in for a device by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from torch.utils.data import DataLoader

from hatchway.cli.demo.dataset import SegmentationVolumes


@dataclass(frozen=True)
class SampleCost:
    """Measured seconds a sample, with every worker at work.

    Attributes:
        anywhere_s: Mean of samples that are cut anywhere.
        foreground_s: Mean of samples that are cut around foreground.
        oversampling: Share of the latter.
        num_measured: How many samples were timed.
    """

    anywhere_s: float
    foreground_s: float
    oversampling: float
    num_measured: int

    @property
    def mean_s(self) -> float:
        """Expected seconds a sample."""
        return self.oversampling * self.foreground_s + (1 - self.oversampling) * self.anywhere_s

    def batch_s(self, batch_size: int, num_workers: int) -> float:
        """Time in which ``num_workers`` prepare one batch: the capacity of preprocessing."""
        return self.mean_s * batch_size / num_workers


@dataclass(frozen=True)
class Plan:
    """How much to run: so many cases an epoch, so many epochs of each loader."""

    num_cases: int
    num_epochs: int


class _Timings:
    """Map-style dataset whose items are the seconds that a sample took in the worker."""

    def __init__(self, samples: SegmentationVolumes, todo: Sequence[tuple[int, bool]]) -> None:
        self._samples = samples
        self._todo = todo

    def __len__(self) -> int:
        return len(self._todo)

    def __getitem__(self, index: int) -> tuple[float, bool]:
        case, oversampled = self._todo[index]
        return self._samples.seconds(case, oversampled=oversampled), oversampled


def measure(
    samples: SegmentationVolumes,
    cases: Sequence[int],
    *,
    num_workers: int,
    seed: int,
    on_sample: Callable[[], None],
) -> SampleCost:
    """Time each of ``cases`` cut both ways, in random order, in ``num_workers`` processes."""
    todo = [(case, oversampled) for case in cases for oversampled in (False, True)]
    np.random.default_rng(seed).shuffle(todo)
    todo = [(int(case), bool(oversampled)) for case, oversampled in todo]
    times_s: dict[bool, list[float]] = {False: [], True: []}
    loader: DataLoader[tuple[float, bool]] = DataLoader(
        _Timings(samples, todo),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=num_workers,
    )
    for seconds, oversampled in loader:
        times_s[oversampled].append(seconds)
        on_sample()
    return SampleCost(fmean(times_s[False]), fmean(times_s[True]), samples.oversampling, len(todo))


def choose_plan(
    epoch_s: float,
    num_cases: int,
    *,
    seconds_left: float,
    num_loaders: int,
    batch_size: int,
    most_epochs: int = 2,
) -> Plan:
    """Choose how much fits into ``seconds_left``: fewer epochs first, then fewer cases.

    Args:
        epoch_s: How long the work of an epoch of ``num_cases`` takes.
        num_cases: Cases in a full epoch.
        seconds_left: Time for all the epochs of all the loaders.
        num_loaders: Loaders that run in turn.
        batch_size: The number of cases stays a multiple of this.
        most_epochs: Never plan more epochs than this.
    """
    # Starting workers, waits and teardown come on top of the work.
    run_s = 1.25 * epoch_s + 0.5
    affordable = int(seconds_left / (run_s * num_loaders))
    if affordable >= 1:
        return Plan(num_cases, min(affordable, most_epochs))
    share = max(0.0, seconds_left / num_loaders - 0.5) / (1.25 * epoch_s)
    batches = max(4, math.floor(share * num_cases / batch_size))
    return Plan(min(num_cases, batches * batch_size), 1)


def choose_workers(cost: SampleCost, *, step_s: float, batch_size: int, num_cpus: int) -> int:
    """Return how many workers keep up with a step of ``step_s``: at least 2, at most the CPUs."""
    needed = math.ceil(cost.mean_s * batch_size / step_s)
    return min(max(2, needed), max(2, num_cpus))
