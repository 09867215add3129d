"""What the demo prints: one live progress line, a line for each run, and the table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hatchway.cli.demo.experiment import EpochRecord, Summary
from hatchway.cli.demo.timeline import Timeline

_REFRESH_S = 0.1


class Screen:
    """Print to a terminal, or plainly where there is none."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)

    def line(self, text: str) -> None:
        """Print one line (or paragraph), with rich markup."""
        self.console.print(text)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a live bar while the block runs; call what it gives to move the bar on."""
        bar = Progress(
            TextColumn("{task.description:<30}"),
            BarColumn(bar_width=32),
            TextColumn("{task.completed:>4.0f} of {task.total:.0f}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
            # No thread of its own: it would take the interpreter's lock from the loop that is
            # being measured, and hold the terminal when Ctrl-C ends the demo.
            auto_refresh=False,
        )
        task = bar.add_task(title, total=total)
        shown_s = 0.0

        def advance(count: int) -> None:
            nonlocal shown_s
            bar.advance(task, count)
            now_s = time.monotonic()
            if now_s - shown_s >= _REFRESH_S:
                shown_s = now_s
                bar.refresh()

        with bar:
            bar.refresh()
            yield advance

    def finished(self, title: str, record: EpochRecord) -> None:
        """Print what one epoch took."""
        timeline = record.timeline
        self.console.print(
            f"  {title:<30} {timeline.epoch_s:6.2f} s   device busy "
            f"{timeline.busy_share:4.0%}{_loss(record)}"
        )

    def table(self, summaries: Sequence[Summary], *, title: str, floor: str) -> None:
        """Print the comparison: medians, with the range of more than one epoch."""
        table = Table(
            box=SIMPLE_HEAD,
            title=title,
            title_justify="left",
            caption=floor,
            caption_justify="left",
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        table.add_column("\nloader", no_wrap=True)
        several = len(summaries[0].epochs) > 1
        headings = [
            "\nepoch",
            "\nrange",
            "to\nstock",
            "device\nbusy",
            "first\nbatch",
            "longest\nwait",
        ]
        if not several:
            headings.remove("\nrange")
        for heading in headings:
            table.add_column(heading, justify="right", no_wrap=True)
        stock_s = summaries[0].median(_epoch_s)
        for summary in summaries:
            epoch_s = summary.median(_epoch_s)
            least_s, most_s = summary.spread(_epoch_s)
            table.add_row(
                summary.name,
                f"{epoch_s:.2f} s",
                *([f"{least_s:.1f}..{most_s:.1f}"] if several else []),
                f"{epoch_s / stock_s:.2f}" if stock_s else "",
                f"{summary.median(lambda timeline: timeline.busy_share):.0%}",
                f"{summary.median(lambda timeline: timeline.first_batch_s):.2f} s",
                f"{summary.median(lambda timeline: timeline.longest_wait_s):.2f} s",
            )
        self.console.print(table)


def _epoch_s(timeline: Timeline) -> float:
    return timeline.epoch_s


def _loss(record: EpochRecord) -> str:
    tenth = max(1, len(record.losses) // 10)
    if len(record.losses) < 2 * tenth:
        return ""
    first = sum(record.losses[:tenth]) / tenth
    last = sum(record.losses[-tenth:]) / tenth
    return f"   loss {first:.2f} to {last:.2f}"
