"""Types of the benchmarks' arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def names(known: Mapping[str, Any]) -> Callable[[str], tuple[str, ...]]:
    """Parse a list of some of ``known``, with commas."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(filter(None, text.split(",")))
        if not chosen or not set(chosen) <= set(known):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a list of some of {', '.join(known)}"
            )
        return chosen

    return parse


def positive(text: str) -> int:
    """Parse a positive whole number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def positive_number(text: str) -> float:
    """Parse a positive number."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


def positive_ratios(text: str) -> tuple[float, ...]:
    """Parse a list of positive numbers, with commas."""
    try:
        ratios = tuple(map(float, text.split(",")))
    except ValueError:
        ratios = ()
    if not ratios or not all(0 < ratio < float("inf") for ratio in ratios):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of positive numbers")
    return ratios


def add_runs(
    parser: argparse.ArgumentParser,
    workloads: Mapping[str, Any],
    loaders: Mapping[str, Any],
    default_loaders: Sequence[str] | None = None,
) -> None:
    """Add what says which workloads and loaders run, how often, and with which seed.

    Args:
        parser: Gets the arguments.
        workloads: The names there are.
        loaders: The names there are.
        default_loaders: Those that run where none are named, if that is not all.
    """
    parser.add_argument(
        "--workloads",
        type=names(workloads),
        default=tuple(workloads),
        help=f"some of {','.join(workloads)} (default: all)",
    )
    every = "all" if default_loaders is None else "all that are installed"
    parser.add_argument(
        "--loaders",
        type=names(loaders),
        default=tuple(loaders) if default_loaders is None else tuple(default_loaders),
        help=f"some of {','.join(loaders)} (default: {every})",
    )
    parser.add_argument("--repeats", type=positive, default=5, help="runs of each (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of orders and data (default: 0)")


def writable(text: str) -> Path:
    """Parse the name of a file that can be written, before the hours that fill it."""
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {error}") from error
    return path


def add_output(parser: argparse.ArgumentParser, *, can_read: bool = True) -> None:
    """Add where the figures go, and whether they come from a file of an earlier run."""
    parser.add_argument("--json", type=writable, metavar="FILE", help="write raw runs and summary")
    if can_read:
        parser.add_argument(
            "--read", type=Path, metavar="FILE", help="show such a file, run nothing"
        )
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
