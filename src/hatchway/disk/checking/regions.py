"""Regions that overlap, as regions that do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple


class Region(NamedTuple):
    """A piece of a file.

    Attributes:
        start: Where it begins.
        end: Where it ends.
        times: How many of the regions that were given cover it.
    """

    start: int
    end: int
    times: int


def disjoint(regions: Iterable[tuple[int, int]]) -> list[Region]:
    """Cut half-open regions where one of them begins or ends.

    However many tables a damaged file says lie over each other, each of its bytes is then
    read once.

    Returns:
        In order, those that at least one covers.
    """
    steps: Counter[int] = Counter()
    for start, end in regions:
        if start < end:
            steps[start] += 1
            steps[end] -= 1
    found, times = [], 0
    for start, end in pairwise(sorted(steps)):
        times += steps[start]
        if times:
            found.append(Region(start, end, times))
    return found
