"""Progress is a few numbers however long the pass is, and tells one order from another."""

from __future__ import annotations

import numpy as np
import pytest

from hatchway.loader.errors import StateError
from hatchway.loader.progress import Progress, plain, read_again


def _ranks(*ranks: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(ranks, np.int64)


def test_in_order_it_is_one_range() -> None:
    progress = Progress()
    for first in range(0, 1000, 10):
        progress.deliver(np.arange(first, first + 10))
    assert progress.ranges() == [(0, 1000)]
    assert progress.is_prefix


def test_displaced_ranks_make_holes_until_they_come() -> None:
    progress = Progress()
    progress.deliver(_ranks(0, 1, 3, 5))
    assert progress.ranges() == [(0, 2), (3, 4), (5, 6)]
    assert (progress.lowest, progress.end, progress.num_delivered) == (2, 6, 4)
    progress.deliver(_ranks(2, 4, 6))
    assert progress.ranges() == [(0, 7)]


def _read(batches: list[list[int]]) -> Progress:
    progress = Progress()
    for keys in batches:
        progress.read(plain(keys))
    return progress


@pytest.mark.parametrize(
    "other",
    [
        [[1, 2], [3, 5]],  # another key
        [[1, 2, 3], [4]],  # other batches
        [[2, 1], [3, 4]],  # another order
        [[1, 2]],  # fewer
        [[1, 2], ["3", 4]],  # no ints
    ],
)
def test_another_order_is_noticed(other: list[list[int]]) -> None:
    before = _read([[1, 2], [3, 4]])
    assert read_again(iter([[1, 2], [3, 4], [5]]), before)[0] == [[1, 2], [3, 4]]
    with pytest.raises(StateError):
        read_again(iter(other), before)


def test_batches_that_were_delivered_whole_are_not_planned_again() -> None:
    before = _read([[7, 8], [], [9, 10], [11, 12]])
    before.deliver(_ranks(0, 1, 2, 4))
    left, progress, num_skipped = read_again(iter([[7, 8], [], [9, 10], [11, 12]]), before)
    assert (left, num_skipped) == ([[9, 10], [11, 12]], 2)
    assert progress.num_homes == 2
    for keys in left:
        progress.read(plain(keys))
    assert progress.digest == before.digest


@pytest.mark.parametrize("keys", [["a"], [1, 2**63], [1.0], [True]])
def test_keys_that_are_no_plain_ints(keys: list[object]) -> None:
    assert plain(keys) is None
    progress = Progress()
    progress.read(plain(keys))
    assert progress.digest is None
