"""How often each of many things was counted, in as few bytes as the counts need."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_WIDER = {1: np.uint16, 2: np.uint32, 4: np.uint64}
# Counted one by one over their range where they are not spread wider than this.
_DENSE = 8


class Counts:
    """A count for each number of a range, all 0 at first.

    A count takes one byte until one is larger than 255; then each takes two, and so on up to
    eight. What was never counted takes no memory: its pages are not touched.

    Args:
        size: How many numbers.
        widened: Called with the bytes that a count is about to take.
    """

    def __init__(self, size: int, widened: Callable[[int], None]) -> None:
        self._widened = widened
        self.values: NDArray[np.unsignedinteger] = np.zeros(size, np.uint8)

    def add(self, numbers: NDArray[np.int64], times: int = 1) -> None:
        """Count each of ``numbers``, which may repeat, ``times`` times."""
        if not len(numbers):
            return
        low, high = int(numbers.min()), int(numbers.max()) + 1
        if high - low <= _DENSE * len(numbers) + 1024:
            found = np.bincount(numbers - low)
            self._raise(slice(low, high), found.astype(np.uint64) * np.uint64(times))
        else:
            distinct, found = np.unique(numbers, return_counts=True)
            self._raise(distinct, found.astype(np.uint64) * np.uint64(times))

    def add_range(self, start: int, end: int, times: int = 1) -> None:
        """Count each number of ``[start, end)``."""
        step = 1 << 16
        for at in range(start, end, step):
            self._raise(slice(at, min(at + step, end)), np.uint64(times))

    def _raise(self, where: slice | NDArray[np.int64], by: NDArray[np.uint64] | np.uint64) -> None:
        raised = self.values[where].astype(np.uint64) + by
        most = int(raised.max())
        while most > np.iinfo(self.values.dtype).max:
            wider = _WIDER[self.values.itemsize]
            self._widened(np.dtype(wider).itemsize)
            self.values = self.values.astype(wider)
        self.values[where] = raised
