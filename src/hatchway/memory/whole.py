"""Which parts of memory are taken whole, since finding out what is dirty would cost more.

A page that is protected costs a fault when it is written to, about as much as copying it. Where
most pages are written between two collections, all of them are called dirty instead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hatchway.memory.ranges import Ranges, empty, joined, num_bytes, num_bytes_below, split

# What a table of pages maps.
BLOCK_BYTES = 2 << 20
_PATIENCE = 2
_LONGEST_REST = 64


class WholeBlocks:
    """Decides, block by block, what the next collection looks at; it looks at nothing itself.

    A block that was mostly dirty twice in a row rests: it is not protected, and called dirty as
    a whole, for 1 collection, then 2, 4, and so on to 64. In the last of them it is protected
    again, and the one after that tells whether it rests anew.

    Args:
        pages: What is tracked.
        above: The share of a block's pages above which it is mostly dirty; None never to rest.
    """

    def __init__(self, pages: Ranges, above: float | None) -> None:
        self._pages = pages
        self._above = above
        self.blocks: Ranges = split(pages, BLOCK_BYTES)
        self._rest: NDArray[np.int64] = np.zeros(len(self.blocks), np.int64)
        self._next_rest: NDArray[np.int64] = np.ones(len(self.blocks), np.int64)
        self._times: NDArray[np.int64] = np.zeros(len(self.blocks), np.int64)
        self._fewest_bytes = (above or 0) * int((self.blocks[:, 1] - self.blocks[:, 0]).min())
        self._is_calm = True

    @property
    def num_resting(self) -> int:
        """How many blocks the next collection takes whole."""
        return 0 if self._is_calm else int(np.count_nonzero(self._rest))

    def looked_at(self) -> Ranges:
        """What the next collection looks at, and protects."""
        return self._pages if self._is_calm else joined(self.blocks[self._rest <= 1])

    def taken_whole(self) -> Ranges:
        """What the next collection calls dirty, whatever it finds."""
        return empty() if self._is_calm else joined(self.blocks[self._rest > 0])

    def note(self, found: Ranges) -> None:
        """Take in what a collection found where it looked."""
        if self._above is None:
            return
        if self._is_calm and num_bytes(found) <= self._fewest_bytes:
            return  # no block can be mostly dirty, as none was before
        rested = self._rest > 0
        self._rest[rested] -= 1
        if not len(found):
            dirty = np.zeros(len(self.blocks), np.int64)
        else:
            starts, ends = self.blocks[:, 0], self.blocks[:, 1]
            dirty = num_bytes_below(found, ends) - num_bytes_below(found, starts)
        is_most = dirty > self._above * (self.blocks[:, 1] - self.blocks[:, 0])
        self._times = np.where(rested, self._times, np.where(is_most, self._times + 1, 0))
        self._next_rest[~rested & ~is_most] = 1
        tired = ~rested & (self._times >= _PATIENCE)
        self._rest[tired] = self._next_rest[tired]
        self._next_rest[tired] = np.minimum(2 * self._next_rest[tired], _LONGEST_REST)
        self._is_calm = not self._times.any()
