"""From the records of all runs to the figures of each loader."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.accuracy.digits import NUM_CLASSES, SLOW_CLASSES
from benchmarks.accuracy.loaders import REFERENCE

Run = Mapping[str, Any]
GROUPS: dict[str, Collection[int]] = {
    "accuracy": range(NUM_CLASSES),
    "fast_accuracy": [label for label in range(NUM_CLASSES) if label not in SLOW_CLASSES],
    "slow_accuracy": SLOW_CLASSES,
}
NUM_PARTS = 5


@dataclass(frozen=True)
class Mean:
    """The mean over the seeds between its extremes."""

    mean: float
    minimum: float
    maximum: float

    def text(self, digits: int, scale: float = 1.0) -> str:
        """Format as ``mean [min-max]``, each times ``scale``; ``to`` parts signed numbers."""
        mean, low, high = (
            f"{round(value * scale, digits) + 0.0:.{digits}f}"
            for value in (self.mean, self.minimum, self.maximum)
        )
        between = " to " if self.minimum < 0 else "-"
        return mean if low == high else f"{mean} [{low}{between}{high}]"


def mean_of(values: Iterable[float]) -> Mean:
    """Summarise ``values``.

    Raises:
        ValueError: If there are none.
    """
    numbers = list(values)
    if not numbers:
        raise ValueError("values is empty: a mean needs at least one")
    return Mean(sum(numbers) / len(numbers), min(numbers), max(numbers))


def summarise(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Give each loader's figures over its seeds.

    ``accuracy`` and its parts are those after the last epoch, ``*_by_epoch`` those after
    each; ``accuracy_over_torch`` is the difference from torch with the same seed.
    """
    by_loader: dict[str, list[Run]] = {}
    for run in runs:
        by_loader.setdefault(run["loader"], []).append(run)
    references = {run["seed"]: run for run in by_loader.get(REFERENCE, [])}
    return {name: _figures(own, references) for name, own in by_loader.items()}


def accuracy_of(run: Run, epoch: int, classes: Collection[int]) -> float:
    """Give the share of right answers among the test images of ``classes``."""
    right: list[int] = run["epochs"][epoch]["right_by_class"]
    num_tested: list[int] = run["num_tested_by_class"]
    return sum(right[i] for i in classes) / sum(num_tested[i] for i in classes)


def _figures(runs: Sequence[Run], references: Mapping[int, Run]) -> dict[str, Any]:
    epochs = [epoch for run in runs for epoch in run["epochs"]]
    figures: dict[str, Any] = {
        "epoch_s": asdict(
            mean_of(float(np.mean([epoch["epoch_s"] for epoch in run["epochs"]])) for run in runs)
        ),
        **_lateness("late", [late for epoch in epochs for late in epoch["late_by"]]),
        **_lateness("slow_late", [late for epoch in epochs for late in epoch["slow_late_by"]]),
        "num_lost": float(np.mean([epoch["num_lost"] for epoch in epochs])),
        "num_doubled": float(np.mean([epoch["num_doubled"] for epoch in epochs])),
        "slow_share_by_batch": slow_share_by_batch(epochs),
        "slow_share_by_part": slow_share_by_part(epochs),
    }
    for name, classes in GROUPS.items():
        figures[name] = asdict(mean_of(accuracy_of(run, -1, classes) for run in runs))
        figures[f"{name}_by_epoch"] = [
            asdict(mean_of(accuracy_of(run, epoch, classes) for run in runs))
            for epoch in range(len(runs[0]["epochs"]))
        ]
    paired = [(run, references[run["seed"]]) for run in runs if run["seed"] in references]
    if paired:
        every = GROUPS["accuracy"]
        figures["accuracy_over_torch"] = asdict(
            mean_of(
                accuracy_of(run, -1, every) - accuracy_of(base, -1, every) for run, base in paired
            )
        )
    return figures


def _lateness(name: str, late_by: Sequence[int]) -> dict[str, int | None]:
    """Give quantiles; None where no such sample came."""
    return {
        f"{name}_{label}": int(np.quantile(late_by, quantile, method="higher")) if late_by else None
        for label, quantile in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }


def slow_share_by_batch(epochs: Sequence[Mapping[str, Any]]) -> list[float]:
    """Give the share of slow samples in the first batch of all epochs, the second, and so on."""
    num_batches = max(len(epoch["num_by_batch"]) for epoch in epochs)
    return [
        _share([epoch for epoch in epochs if len(epoch["num_by_batch"]) > i], i, i + 1)
        for i in range(num_batches)
    ]


def slow_share_by_part(epochs: Sequence[Mapping[str, Any]]) -> list[float]:
    """Give the share of slow samples in the first fifth of each epoch's batches, and so on."""
    num_batches = min(len(epoch["num_by_batch"]) for epoch in epochs)
    edges = [round(part * num_batches / NUM_PARTS) for part in range(NUM_PARTS)]
    return [
        _share(epochs, start, end) for start, end in zip(edges, [*edges[1:], None], strict=True)
    ]


def _share(epochs: Sequence[Mapping[str, Any]], start: int, end: int | None) -> float:
    num_slow = sum(sum(epoch["num_slow_by_batch"][start:end]) for epoch in epochs)
    num_samples = sum(sum(epoch["num_by_batch"][start:end]) for epoch in epochs)
    return num_slow / num_samples if num_samples else 0.0
