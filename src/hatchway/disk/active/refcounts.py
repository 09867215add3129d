"""The refcounts of a file: how many tables refer to each host cluster."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hatchway.disk.active.known import KnownTables
from hatchway.disk.active.ordered import OrderedFiles
from hatchway.disk.active.pages import Pages, Table
from hatchway.disk.errors import CorruptImageError
from hatchway.disk.header import Header
from hatchway.disk.refcount_bits import MAX_REFCOUNT_TABLE_BYTES, packed_counts, unpacked_counts

_ENTRY_MASK = (1 << 64) - 512
_MOST_AT_ONCE = 4096


class Refcounts:
    """The refcount table and blocks of a file, changed in memory and written in order.

    Args:
        header: Of the file.
        files: Where it lies.
        pages: Of its tables.
        known: Where tables lie; of the table and the blocks this says so.

    Attributes:
        cluster_size: Of the file, in bytes.
        bits: Of a refcount.
        per_block: Refcounts of a block.
        table_offset: Where the refcount table lies.
        table_entries: How many entries it has.
    """

    def __init__(
        self, header: Header, files: OrderedFiles, pages: Pages, known: KnownTables
    ) -> None:
        self._files, self._pages, self._known = files, pages, known
        self._path = files.tables.path
        self.cluster_size = header.cluster_size
        self.bits = 1 << header.refcount_order
        self.per_block = header.cluster_size * 8 // self.bits
        self._per_page = pages.page_bytes * 8 // self.bits
        # Blocks that are in use in memory, and in no table on the disk.
        self._unlinked: dict[int, int] = {}
        offset, num = header.refcount_table_offset, header.refcount_table_clusters
        if not 0 < offset < files.tables.file_bytes or offset % self.cluster_size:
            raise CorruptImageError(
                f"the refcount table of {self._path} is said to lie at {offset:#x}, which is not "
                "at a cluster of it",
                path=self._path,
                offset=48,
            )
        if not 0 < num * self.cluster_size <= MAX_REFCOUNT_TABLE_BYTES:
            raise CorruptImageError(
                f"the refcount table of {self._path} is said to have {num} clusters; 1 to "
                f"{MAX_REFCOUNT_TABLE_BYTES // self.cluster_size} are possible",
                path=self._path,
                offset=56,
            )
        self.become(offset, num)

    def become(self, table_offset: int, num_clusters: int) -> None:
        """Go on with a refcount table that lies elsewhere, and is on the disk."""
        self.table_offset = table_offset
        num_bytes = num_clusters * self.cluster_size
        self.table_entries = num_bytes // 8
        file = self._files.tables
        self._known.keep("refcount table", [(table_offset, num_bytes)])
        self._known.keep_listed("refcount block", file, table_offset, num_bytes, _ENTRY_MASK)

    def block(self, rank: int) -> int:
        """Where a refcount block lies; 0 if there is none.

        Raises:
            CorruptImageError: If that is nowhere.
        """
        if rank in self._unlinked:
            return self._unlinked[rank]
        if rank >= self.table_entries:
            return 0
        at = self.table_offset + rank * 8
        raw = self._pages.read(Table.REFCOUNT_TABLE, at, 8)
        offset = int.from_bytes(raw, "big") & _ENTRY_MASK
        if offset % self.cluster_size:
            raise CorruptImageError(
                f"entry {rank} of the refcount table of {self._path} points to {offset:#x}, which "
                f"is not the beginning of a cluster; run `qemu-img check {self._path}`",
                path=self._path,
                offset=at,
            )
        return offset

    def window(self, cluster: int) -> NDArray[np.uint64]:
        """The refcounts of a cluster and of some that follow it."""
        rank, within = divmod(cluster, self.per_block)
        block = self.block(rank)
        if not block:
            return np.zeros(min(self.per_block - within, _MOST_AT_ONCE), np.uint64)
        start = within - within % 8
        stop = within - within % self._per_page + self._per_page
        at, num_bytes = block + start * self.bits // 8, (stop - start) * self.bits // 8
        raw = self._pages.read(Table.REFCOUNT_BLOCK, at, num_bytes)
        return unpacked_counts(raw, self.bits)[within - start :]

    def change(self, first: int, num: int, by: int) -> None:
        """Add to the refcounts of clusters that have a refcount block.

        Raises:
            CorruptImageError: If one would be less than 0, or more than it has bits for.
        """
        end = first + num
        while first < end:
            rank, within = divmod(first, self.per_block)
            stop = min(within + end - first, within - within % self._per_page + self._per_page)
            start = within - within % 8
            at = self.block(rank) + start * self.bits // 8
            num_bytes = (-(-stop // 8) * 8 - start) * self.bits // 8
            raw = self._pages.read(Table.REFCOUNT_BLOCK, at, num_bytes)
            counts = unpacked_counts(raw, self.bits)
            part = counts[within - start : stop - start]
            self._check(first, int(part.min()) + by, int(part.max()) + by)
            part += np.uint64(by % (1 << 64))  # which wraps around to what it is without a sign
            self._pages.change(Table.REFCOUNT_BLOCK, at, packed_counts(counts, self.bits))
            first += stop - within

    def add_blocks(self, clusters: dict[int, int]) -> None:
        """Make free clusters the refcount blocks of their ranks, and count them.

        Raises:
            ImageWriteError: If they cannot be written; then they stay what they are.
        """
        size = self.cluster_size
        for cluster in clusters.values():
            self._files.write(bytes(size), cluster * size)
            self._pages.forget(cluster * size, size)
        self._unlinked.update({rank: cluster * size for rank, cluster in clusters.items()})
        for cluster in clusters.values():
            self._known.add("refcount block", cluster)
            self.change(cluster, 1, 1)

    def write(self) -> None:
        """Write all that was changed; the tables that refer to clusters may be written then.

        Raises:
            ImageWriteError: If something cannot be written.
        """
        self._pages.write(Table.REFCOUNT_BLOCK)
        self._files.barrier()
        while self._unlinked:
            # A block whose own refcount lies in another new one comes after that.
            ready = {
                rank: offset
                for rank, offset in self._unlinked.items()
                if (own := offset // self.cluster_size // self.per_block) == rank
                or own not in self._unlinked
            }
            for rank, offset in ready.items():
                entry = offset.to_bytes(8, "big")
                self._pages.change(Table.REFCOUNT_TABLE, self.table_offset + rank * 8, entry)
            self._pages.write(Table.REFCOUNT_TABLE)
            self._files.barrier()
            for rank in ready:
                del self._unlinked[rank]

    def _check(self, cluster: int, least: int, most: int) -> None:
        if least >= 0 and most < 1 << self.bits:
            return
        said = f"would be {least}" if least < 0 else f"does not fit into {self.bits} bits"
        raise CorruptImageError(
            f"the refcount of a host cluster of {self._path}, from "
            f"{cluster * self.cluster_size:#x} on, {said}; run `qemu-img check -r all "
            f"{self._path}`",
            path=self._path,
            offset=cluster * self.cluster_size,
        )
