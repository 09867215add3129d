"""From raw runs to the figures of one workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.figures import by_repeat, paired_ratios, spread

REFERENCE = "torch"
RAW_FIGURES = (
    "epoch_s",
    "first_batch_s",
    "steady_s",
    "busy_share",
    "wait_s",
    "wait_share",
    "longest_wait_s",
    "late_samples_median",
    "late_samples_p99",
    "late_batches_median",
    "late_batches_p99",
    "num_processes",
    "cpu_s",
    "foreign_share",
)


def summarise(
    runs: Sequence[Mapping[str, Any]], limits: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Give each loader's figures over the repeats.

    ``*_over_torch`` divides by torch in order of the same repeat,
    ``*_over_limit`` by the limit of the same repeat.
    """
    limit_s = {limit["repeat"]: limit["limit_s"] for limit in limits}
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for loader in dict.fromkeys(run["loader"] for run in runs):
        figures = {name: by_repeat(runs, loader, name) for name in RAW_FIGURES}
        for name in ("epoch", "first_batch", "steady"):
            figures[f"{name}_over_torch"] = paired_ratios(
                figures[f"{name}_s"], by_repeat(runs, REFERENCE, f"{name}_s")
            )
        for name in ("epoch", "steady"):
            figures[f"{name}_over_limit"] = paired_ratios(figures[f"{name}_s"], limit_s)
        summary[loader] = {
            name: asdict(spread(values.values())) for name, values in figures.items() if values
        }
    return summary


def summarise_ideals(ideals: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give the figures of the simulated loaders without any cost over the repeats."""
    return {
        loader: {
            name: asdict(spread(by_repeat(ideals, loader, name).values()))
            for name in ("steady_over_limit", "epoch_over_limit")
        }
        for loader in dict.fromkeys(ideal["loader"] for ideal in ideals)
    }
