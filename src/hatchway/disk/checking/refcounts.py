"""The refcounts that a file holds: its refcount table and its blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hatchway.disk.errors import CorruptImageError
from hatchway.disk.image import Image
from hatchway.disk.refcount_bits import MAX_REFCOUNT_TABLE_BYTES, unpacked_counts

# Bits of an entry of the table that must be 0.
TABLE_RESERVED = 0x1FF
_SLICE_BYTES = 65536


class Refcounts:
    """The refcounts of a file, read block by block.

    Attributes:
        table: The entries of the refcount table.
        order: Binary logarithm of the bits of a refcount.
        per_block: Refcounts of a block.

    Raises:
        CorruptImageError: If the table lies nowhere, or is larger than QEMU allows.
    """

    def __init__(self, image: Image) -> None:
        assert image.header is not None
        header = image.header
        self._file = image.file
        self.cluster_size = header.cluster_size
        self.order = header.refcount_order
        self.per_block = (header.cluster_size << 3) >> self.order
        self.table_offset = header.refcount_table_offset
        self.table_bytes = header.refcount_table_clusters * header.cluster_size
        is_placed = self.table_offset and self.table_offset % header.cluster_size == 0
        if not is_placed or self.table_offset >= image.file.file_bytes:
            raise CorruptImageError(
                f"the refcount table of {image.path} is said to lie at {self.table_offset:#x}, "
                f"which is not at a cluster of the file ({image.file.file_bytes} bytes)",
                path=image.path,
                offset=48,
            )
        if not 0 < self.table_bytes <= MAX_REFCOUNT_TABLE_BYTES:
            raise CorruptImageError(
                f"the refcount table of {image.path} is said to have {self.table_bytes} bytes; "
                f"1 to {MAX_REFCOUNT_TABLE_BYTES} are possible",
                path=image.path,
                offset=56,
            )
        # What lies past the end of the file reads as zeros: no blocks.
        raw = image.file.read(self.table_bytes, self.table_offset)
        raw = raw.ljust(self.table_bytes, b"\0")
        self.table: NDArray[np.uint64] = np.frombuffer(raw, ">u8").astype(np.uint64)

    @property
    def most(self) -> int:
        """The largest refcount that the file can hold."""
        return (1 << (1 << self.order)) - 1

    def block_at(self, rank: int) -> int:
        """Where the block of a rank lies; 0 where there is none that can be read."""
        if rank >= len(self.table):
            return 0
        offset = int(self.table[rank])
        is_sound = offset % self.cluster_size == 0 and offset < self._file.file_bytes
        return offset if is_sound else 0

    def slices(self, end: int) -> Iterator[tuple[int, NDArray[np.uint64]]]:
        """The refcounts of clusters ``[0, end)`` in order, some at a time.

        Yields:
            The first cluster, and the refcounts from it on: of whole blocks, or of a piece of
            one block; the last go on past ``end``.
        """
        first, gathered = 0, b""
        last_rank = (end - 1) // self.per_block
        for rank in range(last_rank + 1):
            offset = self.block_at(rank)
            for at in range(0, self.cluster_size, _SLICE_BYTES):
                num_bytes = min(_SLICE_BYTES, self.cluster_size - at)
                raw = self._file.read(num_bytes, offset + at) if offset else b""
                gathered += raw.ljust(num_bytes, b"\0")
                is_last = rank == last_rank and at + num_bytes == self.cluster_size
                if len(gathered) >= _SLICE_BYTES or is_last:
                    found = unpacked_counts(gathered, 1 << self.order)
                    yield first, found
                    first, gathered = first + len(found), b""
                    if first >= end:
                        return
