"""Which host clusters come next, and which may be used again."""

from __future__ import annotations

import errno
import struct

import numpy as np

from hatchway.disk.active.known import KnownTables
from hatchway.disk.active.ordered import OrderedFiles
from hatchway.disk.active.pages import Pages, Table
from hatchway.disk.active.refcounts import Refcounts
from hatchway.disk.errors import CorruptImageError, ImageWriteError
from hatchway.disk.fields import REFCOUNT_TABLE_AT
from hatchway.disk.header import Header
from hatchway.disk.refcount_bits import MAX_REFCOUNT_TABLE_BYTES, packed_counts

_TABLE_FIELDS = struct.Struct(">QI")


class Allocation:
    """The host clusters of a file: handed out, and taken back when nothing refers to them.

    A refcount on the disk is never less than the tables there refer to the cluster: it goes up
    before they do, and down only after they ceased to, on the disk (:meth:`release`,
    :meth:`apply_releases`). Until then the cluster is in use.

    Args:
        header: Of the file.
        files: Where it lies.
        pages: Of its tables.
        known: Where tables lie: never handed out, whatever their refcounts say.

    Attributes:
        refcounts: Of the clusters.
    """

    def __init__(
        self, header: Header, files: OrderedFiles, pages: Pages, known: KnownTables
    ) -> None:
        self._files, self._pages, self._known = files, pages, known
        self._path = files.tables.path
        self.cluster_size = header.cluster_size
        self.refcounts = Refcounts(header, files, pages, known)
        self._released: dict[int, int] = {}
        self._first_free = 1

    @property
    def num_released(self) -> int:
        """How many clusters wait for their refcounts to go down."""
        return len(self._released)

    def allocate(self, most: int) -> range:
        """Free clusters that lie side by side, from now on in use: one to ``most`` of them.

        Raises:
            ImageError: If there are none to be had, or the refcounts cannot be read.
        """
        refcounts = self.refcounts
        while True:
            first, num = self._free_run(most)
            rank = first // refcounts.per_block
            if rank >= refcounts.table_entries:
                self._grow(first)
            elif not refcounts.block(rank):
                # Behind what it is needed for, as by QEMU, but among what it counts.
                block = min(first + num, (rank + 1) * refcounts.per_block - 1)
                self._check_free(range(block, block + 1))
                refcounts.add_blocks({rank: block})
            else:
                self._check_free(range(first, first + num))
                refcounts.change(first, num, 1)
                self._first_free = first + num
                return range(first, first + num)

    def allocate_table(self, num: int) -> range:
        """As :meth:`allocate`: ``num`` clusters, whose pages are unknown, for a table.

        Raises:
            ImageError: As there.
        """
        refcounts = self.refcounts
        while True:
            # With room for the blocks that it may need itself.
            spare = 2 * (num // refcounts.per_block) + 4
            first = self._long_run(num + spare)
            if first + num + spare <= refcounts.table_entries * refcounts.per_block:
                break
            self._grow(first + num + spare)
        missing: list[int] = []
        while True:
            end = first + num + len(missing)
            ranks = range(first // refcounts.per_block, (end - 1) // refcounts.per_block + 1)
            found = [rank for rank in ranks if not refcounts.block(rank)]
            if found == missing:
                break
            missing = found
        self._check_free(range(first, end))
        refcounts.add_blocks({rank: first + num + i for i, rank in enumerate(missing)})
        refcounts.change(first, num, 1)
        self._pages.forget(first * self.cluster_size, num * self.cluster_size)
        return range(first, first + num)

    def give_back(self, clusters: range) -> None:
        """Take back clusters that no table refers to, neither on the disk nor in memory."""
        self._first_free = min(self._first_free, clusters.start)
        self.refcounts.change(clusters.start, len(clusters), -1)

    def check_in_use(self, offset: int, num_bytes: int) -> None:
        """Check that clusters that are to be released are in use.

        Raises:
            CorruptImageError: If not.
        """
        for cluster in self._clusters(offset, num_bytes):
            if int(self.refcounts.window(cluster)[0]) <= self._released.get(cluster, 0):
                raise CorruptImageError(
                    f"host cluster {cluster} of {self._path}, at "
                    f"{cluster * self.cluster_size:#x}, is referred to more often than its "
                    f"refcount says; run `qemu-img check -r all {self._path}`",
                    path=self._path,
                    offset=cluster * self.cluster_size,
                )

    def release(self, offset: int, num_bytes: int) -> None:
        """Let the refcounts of clusters go down by one when no table on the disk needs them."""
        for cluster in self._clusters(offset, num_bytes):
            self._released[cluster] = self._released.get(cluster, 0) + 1

    def apply_releases(self) -> None:
        """Let refcounts go down, now that no table on the disk refers to what was released."""
        waiting = sorted(self._released)
        start = 0
        for rank, cluster in enumerate(waiting):
            times = self._released[cluster]
            following = waiting[rank + 1] if rank + 1 < len(waiting) else -1
            if following == cluster + 1 and self._released[following] == times:
                continue
            first, num = waiting[start], rank + 1 - start
            # What fails here is leaked, and no more than that.
            for one in waiting[start : rank + 1]:
                del self._released[one]
            start = rank + 1
            self.refcounts.change(first, num, -times)
            self._first_free = min(self._first_free, first)

    def _clusters(self, offset: int, num_bytes: int) -> range:
        size = self.cluster_size
        return range(offset // size, -(-(offset + num_bytes) // size))

    def _free_run(self, most: int) -> tuple[int, int]:
        """The first free clusters for ``most`` that lie side by side, as QEMU looks for them.

        Returns:
            The first of them, and how many one refcount block counts.
        """
        self._first_free = first = self._long_run(most)
        return first, min(most, self.refcounts.per_block - first % self.refcounts.per_block)

    def _long_run(self, num: int) -> int:
        """The first of ``num`` free clusters that lie side by side."""
        at = start = self._first_free
        while at - start < num:
            counts = self.refcounts.window(at)
            used = np.flatnonzero(counts)
            if len(used):
                if at + int(used[0]) - start >= num:
                    return start
                wide = np.flatnonzero(np.diff(used) > num)
                if len(wide):
                    return at + int(used[wide[0]]) + 1
                start = at + int(used[-1]) + 1
            at += len(counts)
        return start

    def _check_free(self, found: range) -> None:
        self._known.check_clear(found, "its refcounts say that nothing is")

    def _grow(self, wanted: int) -> None:
        """Have a refcount table that reaches further than cluster ``wanted``.

        The new one lies, with the blocks that count it, where the old one ends to count. All
        are on the disk before the header names them, so there is no other order to keep.
        """
        refcounts, size = self.refcounts, self.cluster_size
        refcounts.write()
        old, old_bytes = refcounts.table_offset, refcounts.table_entries * 8
        first = refcounts.table_entries * refcounts.per_block
        num_entries = max(refcounts.table_entries * 3 // 2, wanted // refcounts.per_block + 1)
        num_blocks = 1
        while True:
            num_tables = -(-max(num_entries, refcounts.table_entries + num_blocks) * 8 // size)
            needed = -(-(num_tables + num_blocks) // refcounts.per_block)
            if needed <= num_blocks:
                break
            num_blocks = needed
        if num_tables * size > MAX_REFCOUNT_TABLE_BYTES:
            raise ImageWriteError(
                f"{self._path} cannot grow past {first * size} bytes, which is all that its "
                f"refcounts can count at clusters of {size} bytes; make it anew with larger "
                "clusters: qemu-img convert",
                path=self._path,
                errno=errno.EFBIG,
            )
        self._check_free(range(first, first + num_tables + num_blocks))
        blocks = [(first + num_tables + rank) * size for rank in range(num_blocks)]
        entries = np.array(blocks, ">u8").tobytes()
        table = self._pages.read(Table.REFCOUNT_TABLE, old, old_bytes) + entries
        counts = np.zeros(num_blocks * refcounts.per_block, np.uint64)
        counts[: num_tables + num_blocks] = 1
        raw = packed_counts(counts, refcounts.bits)
        self._files.write(table.ljust(num_tables * size, b"\0") + raw, first * size)
        self._files.write_header(_TABLE_FIELDS.pack(first * size, num_tables), REFCOUNT_TABLE_AT)
        self._pages.forget(first * size, (num_tables + num_blocks) * size)
        refcounts.become(first * size, num_tables)
        self.give_back(self._clusters(old, old_bytes))
