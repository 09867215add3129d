"""Merging the tables of many layers, window by window, each table read once.

A window is what one node of level 1 leads to: 512 leaves, 2.5 MiB in memory, 16 GiB of a disk
in clusters of 64 KiB. The layers are painted over each other in it, from the base up, so that
the index of fewer layers, a *milestone*, is there on the way.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hatchway.disk.image import Image
from hatchway.disk.index.blocks import FANOUT, leaf_block, node_block
from hatchway.disk.index.tables import Canvas, Tables
from hatchway.disk.index.tree import Tree
from hatchway.disk.leaves import LEAF_GRANULES

WINDOW_GRANULES = FANOUT * LEAF_GRANULES
# Layers between two reports of progress.
_REPORT_LAYERS = 16


@dataclass
class Painted:
    """What painting wrote.

    Attributes:
        changed: For each milestone, where the nodes of level 1 lie, by their rank, that differ
            from those of the milestone before it.
        num_new_leaves: For each milestone, leaves that the one before it had not at all.
        digests: Of the layers that were painted.
    """

    changed: list[dict[int, int]]
    num_new_leaves: list[int]
    digests: list[bytes] = field(default_factory=list)


class _Window:
    """512 leaves.

    Args:
        below: The leaves that lie below all that is painted.
        rank: Of the node that leads to them.
        granule: Bytes of a granule.
    """

    def __init__(self, below: Tree, rank: int, granule: int) -> None:
        self._below = below
        self._rank = rank
        found = below.pointers(1, rank)
        self._pointers = np.zeros(FANOUT, np.uint64) if found is None else found.copy()
        self._lacks_below = self._pointers != 0
        self.canvas = Canvas(
            rank * WINDOW_GRANULES * granule,
            granule,
            np.zeros((FANOUT, LEAF_GRANULES), np.uint64),
            np.zeros((FANOUT, LEAF_GRANULES), np.uint16),
            np.zeros(FANOUT, np.bool_),
        )

    def write(self, append: Callable[[bytes], int]) -> tuple[int, int]:
        """Write the leaves that were painted since the last time, and the node above them.

        Returns:
            Where the node lies, 0 if nothing was painted; and how many leaves are new.
        """
        _, _, words, layers, is_painted = self.canvas
        painted = np.flatnonzero(is_painted).tolist()
        if not painted:
            return 0, 0
        num_new = int((self._pointers[painted] == 0).sum())
        for leaf in painted:
            rank = self._rank * FANOUT + leaf
            if self._lacks_below[leaf]:
                self._put_below(rank, words[leaf], layers[leaf])
                self._lacks_below[leaf] = False
            self._pointers[leaf] = append(leaf_block(rank, words[leaf], layers[leaf]))
        is_painted[:] = False
        return append(node_block(1, self._rank, self._pointers)), num_new

    def _put_below(self, rank: int, words: NDArray[np.uint64], layers: NDArray[np.uint16]) -> None:
        """Have what lies below where nothing was painted over it."""
        found = self._below.leaf(rank)
        if found is not None:
            is_hole = words == 0
            words[is_hole], layers[is_hole] = found[0][is_hole], found[1][is_hole]


def paint(
    images: Sequence[Image],
    below: Tree,
    num_below: int,
    granule: int,
    milestones: Sequence[int],
    append: Callable[[bytes], int],
    progress: Callable[[int, int], None],
) -> Painted:
    """Put layers over a tree.

    Args:
        images: The whole chain, the base first.
        below: The tree of its first ``num_below`` layers.
        num_below: Those are not looked at.
        granule: Bytes of a granule, of both.
        milestones: Numbers of layers, ascending, the last one being all.
        append: Writes a block, and says where it lies.
        progress: Called now and then with how much is done, and of how much.

    Raises:
        CorruptImageError: If a table contradicts the format.
        DamagedIndexError: If the tree below is damaged.
    """
    tables = [Tables(image) for image in images[num_below:]]
    painted = Painted([{} for _ in milestones], [0] * len(milestones))
    window_bytes = WINDOW_GRANULES * granule
    total = -(-max(image.size for image in images) // window_bytes) * len(tables)
    for rank, here in _windows(tables, window_bytes):
        window = _Window(below, rank, granule)
        stage = 0
        for number in here:
            while milestones[stage] <= num_below + number:
                _write(window, rank, painted, stage, append)
                stage += 1
            if number % _REPORT_LAYERS == 0:
                progress(rank * len(tables) + number, total)
            tables[number].take((rank + 1) * window_bytes, window.canvas, num_below + number)
        _write(window, rank, painted, stage, append)
    painted.digests = [table.digest() for table in tables]
    progress(total, total)
    return painted


def _write(
    window: _Window, rank: int, painted: Painted, stage: int, append: Callable[[bytes], int]
) -> None:
    offset, num_new = window.write(append)
    if offset:
        painted.changed[stage][rank] = offset
        painted.num_new_leaves[stage] += num_new


def _windows(tables: Sequence[Tables], window_bytes: int) -> Iterator[tuple[int, list[int]]]:
    """The windows that a layer has tables in, and the numbers of those that do, ascending."""
    waiting = [
        (start // window_bytes, number)
        for number, table in enumerate(tables)
        if (start := table.next_byte) is not None
    ]
    heapq.heapify(waiting)
    while waiting:
        rank = waiting[0][0]
        here = []
        while waiting and waiting[0][0] == rank:
            here.append(heapq.heappop(waiting)[1])  # by number, as they were pushed in pairs
        yield rank, here
        for number in here:
            start = tables[number].next_byte
            if start is not None:
                heapq.heappush(waiting, (start // window_bytes, number))
