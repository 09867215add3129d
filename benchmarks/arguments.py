"""Types of the benchmarks' arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
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


def positive_ratios(text: str) -> tuple[float, ...]:
    """Parse a list of positive numbers, with commas."""
    try:
        ratios = tuple(map(float, text.split(",")))
    except ValueError:
        ratios = ()
    if not ratios or not all(0 < ratio < float("inf") for ratio in ratios):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of positive numbers")
    return ratios
