"""A part of a disk, as a sequence of bytes that is read where it is looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from hatchway.disk.arrays import np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from hatchway.disk.chain import Chain

_PIECE_BYTES = 1 << 20


class DiskView(Sequence[int]):
    """Bytes ``[start, end)`` of a chain, as if they were mapped into memory.

    An index or a slice reads what it asks for, and no more. It pickles with its chain.

    Args:
        chain: Stays open as long as this is used.
        start: Guest offset, in bytes.
        end: Guest offset, in bytes.

    Raises:
        ValueError: If the range is not within the disk.
    """

    def __init__(self, chain: Chain, start: int, end: int) -> None:
        if not 0 <= start <= end <= chain.size:
            raise ValueError(f"[{start}, {end}) is not within the disk's {chain.size} bytes")
        self._chain = chain
        self._start = start
        self._end = end

    def __len__(self) -> int:
        return self._end - self._start

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> bytes: ...
    def __getitem__(self, index: int | slice) -> int | bytes:
        if isinstance(index, slice):
            first, end, step = index.indices(len(self))
            if step == 1:
                return self._chain.read_at(self._start + first, max(0, end - first))
            low, high = (first, end) if step > 0 else (end + 1, first + 1)
            raw = self._chain.read_at(self._start + low, max(0, high - low))
            return raw[::step] if step > 0 else raw[::-1][::-step]
        place = range(len(self))[index]
        return self._chain.read_at(self._start + place, 1)[0]

    def __iter__(self) -> Iterator[int]:
        for first in range(0, len(self), _PIECE_BYTES):
            yield from self[first : first + _PIECE_BYTES]

    def array(self, dtype: DTypeLike, first: int = 0, count: int | None = None) -> NDArray[Any]:
        """Items of a type, read into an array of their own.

        Args:
            dtype: Of the items.
            first: The number of the first item.
            count: How many; None for all that are there.

        Returns:
            An array of one dimension, which may be written to.

        Raises:
            ValueError: If there are not so many.
        """
        item_bytes = np.dtype(dtype).itemsize
        most = max(0, len(self) // item_bytes - first)
        count = most if count is None else count
        if not first >= 0 or not 0 <= count <= most:
            raise ValueError(
                f"items [{first}, {first + count}) are not within the "
                f"{len(self) // item_bytes} that there are"
            )
        found = np.empty(count, dtype)
        self._chain.readinto_at(self._start + first * item_bytes, found.view(np.uint8))
        return found
