"""Draw what each loader does to the mix of batches, and what that does to accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.accuracy.loaders import TITLES

_MUTED = "#6b6b6b"
# strict lies on torch: dashes let both be seen.
_STYLES: dict[str, dict[str, Any]] = {
    "torch": {"color": "#222222", "linewidth": 2.6},
    "strict": {"color": "#7fc4f2", "linewidth": 1.6, "linestyle": (0, (3, 2))},
    "ready": {"color": "#1f77b4", "linewidth": 1.6},
    "unbounded": {"color": "#d62728", "linewidth": 1.6},
    "counting": {"color": "#e69f00", "linewidth": 1.6},
}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG: the share of slow samples in batches, and accuracy of fast and slow classes."""
    summary = report["summary"]
    figure = Figure(figsize=(11, 4.1), dpi=120, layout="constrained")
    mix, fast, slow = figure.subplots(1, 3)
    for loader, figures in summary.items():
        shares = [100 * share for share in figures["slow_share_by_batch"]]
        mix.plot(
            range(1, len(shares) + 1),
            shares,
            label=TITLES[loader].replace("`", ""),
            **_STYLES[loader],
        )
        _accuracy(fast, loader, figures["fast_accuracy_by_epoch"])
        _accuracy(slow, loader, figures["slow_accuracy_by_epoch"])
    _frame(mix, "Slow samples in a batch, %", "batch of the epoch")
    _frame(fast, "Accuracy on fast classes, %", "after epoch")
    _frame(slow, "Accuracy on slow classes, %", "after epoch")
    figure.legend(
        *mix.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(summary),
        frameon=False,
        fontsize=9.5,
    )
    figure.savefig(path, format="png")


def _accuracy(axes: Axes, loader: str, by_epoch: Sequence[Mapping[str, float]]) -> None:
    epochs = range(1, len(by_epoch) + 1)
    axes.plot(epochs, [100 * one["mean"] for one in by_epoch], **_STYLES[loader])
    axes.fill_between(
        epochs,
        [100 * one["minimum"] for one in by_epoch],
        [100 * one["maximum"] for one in by_epoch],
        color=_STYLES[loader]["color"],
        alpha=0.12,
        linewidth=0,
    )


def _frame(axes: Axes, title: str, label: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, weight="bold")
    axes.set_xlabel(label, color=_MUTED, loc="left")
    axes.set_ylim(-2, 102)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(colors=_MUTED)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)
