"""Blocks that are mostly dirty rest, and are looked at again."""

from __future__ import annotations

import numpy as np

from hatchway.memory.ranges import empty, num_bytes
from hatchway.memory.whole import BLOCK_BYTES, WholeBlocks

PAGES = np.array([[BLOCK_BYTES, 4 * BLOCK_BYTES]], np.int64)


def part_of(block: int, share: float) -> np.ndarray:
    start = block * BLOCK_BYTES
    return np.array([[start, start + int(share * BLOCK_BYTES)]], np.int64)


def test_what_is_little_dirty_is_always_looked_at() -> None:
    blocks = WholeBlocks(PAGES, 0.5)
    for _ in range(5):
        assert blocks.looked_at().tolist() == PAGES.tolist()
        assert not len(blocks.taken_whole())
        blocks.note(part_of(2, 0.5))


def test_once_is_not_enough() -> None:
    blocks = WholeBlocks(PAGES, 0.5)
    for share in (0.6, 0.1, 0.6, 0.1):
        blocks.note(part_of(2, share))
        assert blocks.num_resting == 0


def rests(blocks: WholeBlocks, share: float) -> int:
    """How many collections take the second block whole; it is looked at in the last of them."""
    number = 0
    while blocks.num_resting:
        assert blocks.taken_whole().tolist() == [[2 * BLOCK_BYTES, 3 * BLOCK_BYTES]]
        is_last = len(blocks.looked_at()) == 1
        blocks.note(part_of(2, share) if is_last else empty())
        number += 1
        assert is_last == (not blocks.num_resting)
    return number


def test_it_rests_ever_longer_while_it_is_mostly_dirty() -> None:
    blocks = WholeBlocks(PAGES, 0.5)
    blocks.note(part_of(2, 1))
    assert not blocks.num_resting
    lengths = []
    for _ in range(9):
        blocks.note(part_of(2, 0.6))
        lengths.append(rests(blocks, 0.6))
    assert lengths == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    blocks.note(part_of(2, 0.1))
    assert not blocks.num_resting
    for share in (0.6, 0.6):
        blocks.note(part_of(2, share))
    assert rests(blocks, 0.6) == 1


def test_a_block_that_is_tracked_in_part_is_judged_by_that_part() -> None:
    blocks = WholeBlocks(part_of(1, 0.01), 0.5)
    for _ in range(2):
        blocks.note(part_of(1, 0.006))
    assert num_bytes(blocks.taken_whole()) == int(0.01 * BLOCK_BYTES)


def test_nothing_rests_if_it_must_not() -> None:
    blocks = WholeBlocks(PAGES, None)
    for _ in range(5):
        blocks.note(PAGES)
        assert blocks.num_resting == 0
