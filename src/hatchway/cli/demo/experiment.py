"""Run one epoch of one loader and note what the device did."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from hatchway.cli.demo.neighbours import others_share, read_cpu_time
from hatchway.cli.demo.timeline import Timeline

if TYPE_CHECKING:
    from torch import Tensor

    from hatchway.cli.demo.device import Device


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave.

    Attributes:
        name: The contender's.
        timeline: What the device did.
        cases: Every delivered case, in the order of delivery.
        losses: The loss of each step, where something was trained.
        num_displaced: Samples delivered elsewhere than the sampler put them, where known.
        max_displacement: The farthest of those, in positions.
        others_share: Share of the machine's CPU time that other programs took meanwhile.
    """

    name: str
    timeline: Timeline
    cases: tuple[int, ...]
    losses: tuple[float, ...] = ()
    num_displaced: int | None = None
    max_displacement: int | None = None
    others_share: float | None = None


@dataclass(frozen=True)
class Summary:
    """All epochs of one contender; the shown one is that of median length."""

    name: str
    epochs: tuple[EpochRecord, ...]

    @property
    def shown(self) -> EpochRecord:
        """The epoch whose length is the (lower) median."""
        by_length = sorted(self.epochs, key=lambda record: record.timeline.epoch_s)
        return by_length[(len(by_length) - 1) // 2]

    def median(self, figure: Callable[[Timeline], float]) -> float:
        """Median of a figure over the epochs."""
        return median(figure(record.timeline) for record in self.epochs)

    def spread(self, figure: Callable[[Timeline], float]) -> tuple[float, float]:
        """Smallest and largest value of a figure over the epochs."""
        figures = [figure(record.timeline) for record in self.epochs]
        return min(figures), max(figures)


def run_epoch(
    name: str,
    loader: Iterable[tuple[Tensor, Tensor, Tensor]],
    device: Device,
    *,
    on_batch: Callable[[int], None],
) -> EpochRecord:
    """Feed one epoch to the device. The clock starts when the first batch is asked for.

    Args:
        name: The contender's.
        loader: Gives image, label and case numbers of each batch.
        device: Consumes them.
        on_batch: Told the size of each batch once it is handed over.
    """
    cases: list[int] = []
    before = read_cpu_time()
    started_s = time.monotonic()
    for image, label, numbers in loader:
        device.step(image, label)
        batch_cases = numbers.tolist()
        cases.extend(batch_cases)
        on_batch(len(batch_cases))
    timeline = Timeline.from_steps(device.finish(), started_s=started_s)
    statistics = getattr(loader, "statistics", None)
    snapshot = statistics() if callable(statistics) else None
    return EpochRecord(
        name,
        timeline,
        tuple(cases),
        tuple(device.losses),
        getattr(snapshot, "num_displaced", None),
        getattr(snapshot, "max_displacement", None),
        others_share(before, read_cpu_time()),
    )


def faults(record: EpochRecord, num_cases: int) -> list[str]:
    """Say which cases were not delivered exactly once; an empty list if all were."""
    times = Counter(record.cases)
    return [
        f"case {case} was delivered {times[case]} times"
        for case in sorted(set(range(num_cases)) | set(times))
        if times[case] != 1 or case >= num_cases
    ]
