"""Draw the timelines of all loaders, one lane each, waits in red."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from hatchway.cli.demo.experiment import Summary
from hatchway.cli.demo.timeline import Interval

_BUSY = "#9dbfd9"
_WAIT = "#d62728"
_INK = "#222222"
_MUTED = "#6b6b6b"
_LANE_HEIGHT = 0.56


def draw(summaries: Sequence[Summary], path: Path, *, title: str, subtitle: str) -> None:
    """Write a PNG of each loader's epoch of median length.

    Args:
        summaries: The loaders, from top to bottom.
        path: Where to write.
        title: What was compared.
        subtitle: What the step is, and the setting.
    """
    longest_s = max(summary.shown.timeline.epoch_s for summary in summaries)
    figure = Figure(
        figsize=(11, 1.75 + 0.72 * len(summaries)),
        dpi=160,
        layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12),
    )
    axes = figure.add_subplot()
    for lane, summary in enumerate(summaries):
        timeline = summary.shown.timeline
        _bars(axes, lane, timeline.busy, _BUSY)
        _bars(axes, lane, timeline.waits, _WAIT)
        axes.text(
            timeline.epoch_s + 0.012 * longest_s,
            lane,
            f"{timeline.epoch_s:.2f} s\n",
            va="center",
            weight="bold",
            color=_INK,
            fontsize=10.5,
            linespacing=1.3,
        )
        axes.text(
            timeline.epoch_s + 0.012 * longest_s,
            lane,
            f"\nbusy {timeline.busy_share:.0%}",
            va="center",
            color=_MUTED,
            fontsize=9.5,
            linespacing=1.3,
        )
    axes.set_xlim(0, 1.1 * longest_s)
    axes.set_ylim(len(summaries) - 0.45, -0.55)
    axes.set_yticks(range(len(summaries)), [summary.name for summary in summaries], fontsize=10.5)
    axes.set_xlabel("seconds since the epoch began", color=_MUTED, loc="left")
    axes.tick_params(axis="y", length=0, pad=8, labelcolor=_INK)
    axes.tick_params(axis="x", colors=_MUTED)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)
    axes.set_title(f"{title}\n", loc="left", fontsize=13, weight="bold", color=_INK)
    axes.annotate(
        subtitle,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 8),
        textcoords="offset points",
        fontsize=10,
        color=_MUTED,
    )
    axes.legend(
        handles=[
            Patch(color=_BUSY, label="device busy"),
            Patch(color=_WAIT, label="device waits for a batch"),
        ],
        loc="upper right",
        bbox_to_anchor=(1, -0.4 / len(summaries)),
        borderaxespad=0,
        ncols=2,
        frameon=False,
        fontsize=10,
        labelcolor=_INK,
    )
    figure.savefig(path, format="png")


def _bars(axes: Axes, lane: int, stretches: Sequence[Interval], colour: str) -> None:
    axes.broken_barh(
        [(stretch.start_s, stretch.length_s) for stretch in stretches],
        (lane - _LANE_HEIGHT / 2, _LANE_HEIGHT),
        facecolors=colour,
        linewidth=0,
    )
