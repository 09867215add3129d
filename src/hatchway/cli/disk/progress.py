"""The bar of long work, on a terminal only, and gone when the work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn


def bar_of(what: str) -> Progress:
    """A bar that is not yet shown.

    Args:
        what: What is being done.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn(what),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def shown(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar meanwhile; gives what is to be told how much is done, and of how much."""
    with bar_of(what) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
