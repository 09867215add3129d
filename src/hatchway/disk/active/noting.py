"""Which granules of a disk were written to, a bit each."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]


class Noted:
    """Bits of granules, the lowest of a byte first; memory is taken where some are set.

    Args:
        size: Of the disk, in bytes.
        granularity_bits: Binary logarithm of a granule's bytes.
        coarsest_bits: Of the largest granules that are asked for.
    """

    def __init__(self, size: int, granularity_bits: int, coarsest_bits: int) -> None:
        self.granularity_bits = granularity_bits
        self._coarsest_bits = coarsest_bits
        self._bits = self._zeros(size)

    def note(self, start: int, end: int) -> None:
        """Set the bits of ``[start, end)`` of the disk, which has some bytes."""
        first, last = start >> self.granularity_bits, (end - 1) >> self.granularity_bits
        head, tail = 0xFF << (first & 7) & 0xFF, 0xFF >> (7 - (last & 7))
        begin, stop = first >> 3, last >> 3
        if begin == stop:
            self._bits[begin] |= head & tail
            return
        self._bits[begin] |= head
        self._bits[begin + 1 : stop] = 0xFF
        self._bits[stop] |= tail

    def add(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        """Set the bits that are set in pieces: the byte where each begins, and its bytes."""
        for at, bits in pieces:
            mine = self._bits[at : at + len(bits)]
            mine |= np.frombuffer(bits, np.uint8)[: len(mine)]

    def resize(self, size: int) -> None:
        """The disk has another size now; nothing was written to what is new."""
        before, self._bits = self._bits, self._zeros(size)
        found = np.flatnonzero(before[: len(self._bits)])
        self._bits[found] = before[found]
        keep(self._bits, -(-size >> self.granularity_bits))

    def piece(self, granularity_bits: int, rank: int, num_bytes: int) -> Bits | None:
        """Bytes ``[rank * num_bytes, (rank + 1) * num_bytes)`` of the bits of larger granules.

        Returns:
            None if no bit of them is set.
        """
        shift = granularity_bits - self.granularity_bits
        width = num_bytes << shift
        fine = self._bits[rank * width : (rank + 1) * width]
        if not fine.any():
            return None
        found = np.zeros(num_bytes, np.uint8)
        if shift:
            # By bytes where a bit stands for whole ones.
            cells = fine if shift >= 3 else np.unpackbits(fine, bitorder="little")
            in_a_bit = 1 << (shift - 3 if shift >= 3 else shift)
            fine = np.packbits(cells.reshape(-1, in_a_bit).any(axis=1), bitorder="little")
        found[: len(fine)] = fine
        return found

    def _zeros(self, size: int) -> Bits:
        num_bytes = -(-size >> self.granularity_bits + 3)
        step = 1 << max(0, self._coarsest_bits - self.granularity_bits - 3)
        return np.zeros(-(-num_bytes // step) * step, np.uint8)


def keep(bits: Bits, num: int) -> None:
    """Clear all bits but the first ``num``."""
    whole, more = divmod(max(num, 0), 8)
    if whole < len(bits):
        bits[whole] &= (1 << more) - 1
        bits[whole + 1 :] = 0
