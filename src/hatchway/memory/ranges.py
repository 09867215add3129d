"""Sets of addresses as sorted ranges: rows of ``[start, end)`` in an array, none touching.

All of it is arithmetic on arrays, so that a million ranges cost milliseconds.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ranges: TypeAlias = NDArray[np.int64]


def empty() -> Ranges:
    """No address at all."""
    return np.empty((0, 2), np.int64)


def union(*parts: Ranges) -> Ranges:
    """What lies in any of them; each may overlap itself, in any order."""
    rows = np.concatenate(parts) if parts else empty()
    rows = rows[rows[:, 0] < rows[:, 1]]
    if len(rows) < 2:
        return rows
    starts, ends = rows[:, 0], rows[:, 1]
    if not (starts[1:] > ends[:-1]).all():
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], np.maximum.accumulate(ends[order])
        begins = np.concatenate(([True], starts[1:] > ends[:-1]))
        firsts = np.flatnonzero(begins)
        starts, ends = starts[firsts], ends[np.append(firsts[1:], len(ends)) - 1]
    return np.stack((starts, ends), axis=1)


def intersection(left: Ranges, right: Ranges) -> Ranges:
    """What lies in both."""
    if not len(left) or not len(right):
        return empty()
    # Each range of the one meets those of the other from its first to its last.
    first = np.searchsorted(right[:, 1], left[:, 0], side="right")
    last = np.searchsorted(right[:, 0], left[:, 1], side="left")
    of_left, of_right = expanded(first, np.maximum(last - first, 0))
    starts = np.maximum(left[of_left, 0], right[of_right, 0])
    ends = np.minimum(left[of_left, 1], right[of_right, 1])
    return np.stack((starts, ends), axis=1)


def difference(left: Ranges, right: Ranges) -> Ranges:
    """What lies in the first and not in the second."""
    if not len(left) or not len(right):
        return left
    info = np.iinfo(np.int64)
    starts = np.concatenate(([info.min], right[:, 1]))
    ends = np.concatenate((right[:, 0], [info.max]))
    return intersection(left, np.stack((starts, ends), axis=1))


def num_bytes(ranges: Ranges) -> int:
    """How many addresses there are."""
    return int((ranges[:, 1] - ranges[:, 0]).sum())


def num_bytes_below(ranges: Ranges, addresses: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of them lie below each of some addresses."""
    if not len(ranges):
        return np.zeros(len(addresses), np.int64)
    before = np.concatenate(([0], np.cumsum(ranges[:, 1] - ranges[:, 0])))
    rank = np.searchsorted(ranges[:, 0], addresses, side="right")
    beyond = np.where(rank > 0, ranges[rank - 1, 1] - addresses, 0)
    found: NDArray[np.int64] = before[rank] - np.maximum(beyond, 0)
    return found


def expanded(
    firsts: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of numbers that count up, one behind the other.

    Args:
        firsts: Of each row the first number.
        counts: How many it has.

    Returns:
        For each number, which row it is of; and the numbers.
    """
    of = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(of)) - (np.cumsum(counts) - counts)[of]
    return of, firsts[of] + within


def split(ranges: Ranges, num_bytes_each: int) -> Ranges:
    """The same ranges, cut at each multiple of a number of bytes."""
    firsts = ranges[:, 0] // num_bytes_each
    of, pieces = expanded(firsts, -(-ranges[:, 1] // num_bytes_each) - firsts)
    starts = pieces * num_bytes_each
    return np.stack(
        (np.maximum(starts, ranges[of, 0]), np.minimum(starts + num_bytes_each, ranges[of, 1])),
        axis=1,
    )


def joined(blocks: Ranges) -> Ranges:
    """Sorted ranges with those that touch made one."""
    if len(blocks) < 2:
        return blocks
    begins = np.concatenate(([True], blocks[1:, 0] != blocks[:-1, 1]))
    firsts = np.flatnonzero(begins)
    lasts = np.append(firsts[1:], len(blocks)) - 1
    return np.stack((blocks[firsts, 0], blocks[lasts, 1]), axis=1)
