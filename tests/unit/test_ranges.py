"""Sets of addresses as ranges are what sets of addresses are."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hatchway.memory import ranges
from hatchway.memory.ranges import Ranges

ADDRESSES = st.integers(0, 40)
ROWS = st.lists(st.tuples(ADDRESSES, ADDRESSES), max_size=8)


def ranges_of(rows: list[tuple[int, int]]) -> Ranges:
    return np.array(rows, np.int64).reshape(-1, 2)


def addresses_of(rows: Ranges) -> set[int]:
    return {address for start, end in rows.tolist() for address in range(start, end)}


def is_normal(rows: Ranges) -> bool:
    flat = rows.reshape(-1)
    return bool((flat[1:] > flat[:-1]).all())


@given(ROWS, ROWS)
def test_they_are_joined_met_and_subtracted(some: list[tuple[int, int]], more: list[Any]) -> None:
    left, right = ranges.union(ranges_of(some)), ranges.union(ranges_of(more))
    both = addresses_of(left), addresses_of(right)
    assert is_normal(left)
    assert both[0] == addresses_of(ranges_of(some))
    for found, expected in [
        (ranges.union(left, right), both[0] | both[1]),
        (ranges.intersection(left, right), both[0] & both[1]),
        (ranges.difference(left, right), both[0] - both[1]),
    ]:
        assert is_normal(found)
        assert addresses_of(found) == expected
        assert ranges.num_bytes(found) == len(expected)


@given(ROWS, st.lists(ADDRESSES, max_size=5))
def test_what_lies_below_is_counted(some: list[tuple[int, int]], below: list[int]) -> None:
    rows = ranges.union(ranges_of(some))
    found = ranges.num_bytes_below(rows, np.array(below, np.int64))
    assert found.tolist() == [sum(one < end for one in addresses_of(rows)) for end in below]


@given(ROWS, st.integers(1, 9))
def test_they_are_cut(some: list[tuple[int, int]], num_bytes: int) -> None:
    rows = ranges.union(ranges_of(some))
    cut = ranges.split(rows, num_bytes)
    assert all(start // num_bytes == (end - 1) // num_bytes for start, end in cut.tolist())
    assert ranges.joined(cut).tolist() == rows.tolist()
