"""What Hatchway's default promises on each workload, checked by every full run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LOADER = "hatchway"


@dataclass(frozen=True)
class Target:
    """The most that a figure's median may be."""

    workload: str
    figure: str
    at_most: float


_STEADY = {"skewed": 1.03, "volumes": 1.03, "jpeg": 1.06, "cheap": 1.10, "even": 1.03}
_EPOCH = {"skewed": 0.86, "volumes": 0.85, "jpeg": 0.85, "cheap": 0.55, "even": 0.75}
_FIRST = {"skewed": 0.2, "volumes": 1.0, "jpeg": 1.0, "cheap": 1.0, "even": 1.0}

TARGETS = tuple(
    Target(workload, figure, at_most)
    for figure, by_workload in (
        ("steady_over_limit", _STEADY),
        ("epoch_over_torch", _EPOCH),
        ("first_batch_over_torch", _FIRST),
    )
    for workload, at_most in by_workload.items()
)


@dataclass(frozen=True)
class Outcome:
    """A target beside the measured spread (None if it was not measured)."""

    target: Target
    measured: Mapping[str, Any] | None

    @property
    def is_met(self) -> bool:
        """Whether the median keeps the target."""
        return self.measured is not None and self.measured["median"] <= self.target.at_most


def outcomes(workload: str, summary: Mapping[str, Any]) -> list[Outcome]:
    """Compare one workload's summary with its targets."""
    figures = summary.get(LOADER, {})
    return [
        Outcome(target, figures.get(target.figure))
        for target in TARGETS
        if target.workload == workload
    ]
