"""Medians, spreads and paired ratios of repeated runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """The median of repeated measurements between their extremes."""

    median: float
    minimum: float
    maximum: float
    num_values: int

    def text(self, digits: int = 2, scale: float = 1.0) -> str:
        """Format as ``median [min-max]``, each times ``scale``; one run has no spread."""
        median, low, high = (
            f"{value * scale:.{digits}f}" for value in (self.median, self.minimum, self.maximum)
        )
        return median if self.num_values == 1 else f"{median} [{low}-{high}]"


def spread(values: Iterable[float]) -> Spread:
    """Summarise ``values``.

    Raises:
        ValueError: If there are none.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("values is empty: a spread needs at least one")
    return Spread(statistics.median(ordered), ordered[0], ordered[-1], len(ordered))


def paired_ratios(values: Mapping[int, float], references: Mapping[int, float]) -> dict[int, float]:
    """Divide each repeat's value by the same repeat's reference; repeats without both drop out."""
    return {
        repeat: value / references[repeat]
        for repeat, value in values.items()
        if repeat in references
    }


def by_repeat(runs: Iterable[Mapping[str, Any]], loader: str, figure: str) -> dict[int, float]:
    """Pick ``figure`` of the good runs of ``loader``, by repeat."""
    return {
        run["repeat"]: run[figure]
        for run in runs
        if run["loader"] == loader and run["error"] is None
    }
