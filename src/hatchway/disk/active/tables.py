"""The L1 table and the L2 tables of the active disk, changed in memory."""

from __future__ import annotations

from hatchway.disk.active.allocation import Allocation
from hatchway.disk.active.known import KnownTables
from hatchway.disk.active.ordered import OrderedFiles
from hatchway.disk.active.pages import Pages, Table
from hatchway.disk.errors import CorruptImageError
from hatchway.disk.fields import COPIED
from hatchway.disk.header import Header
from hatchway.disk.words import OFFSET_MASK


class GuestTables:
    """The entries of all guest clusters.

    Args:
        header: Of the file.
        files: Where it lies.
        pages: Of its tables.
        allocation: Of its clusters.
        known: Where tables lie; of these this says so.

    Attributes:
        l1_offset: Where the L1 table lies.
        l1_size: Entries of it.
        per_table: Guest clusters of an L2 table.
        entry_bytes: Bytes of an entry of one.
    """

    def __init__(
        self,
        header: Header,
        files: OrderedFiles,
        pages: Pages,
        allocation: Allocation,
        known: KnownTables,
    ) -> None:
        self._files, self._pages, self._allocation = files, pages, allocation
        self._known = known
        self._path = files.tables.path
        self._cluster_size = header.cluster_size
        self.entry_bytes = header.l2_entry_bytes
        self.per_table = header.cluster_size // header.l2_entry_bytes
        self.become(header.l1_offset, header.l1_size)

    def become(self, l1_offset: int, l1_size: int) -> None:
        """Go on with an L1 table that lies elsewhere, and is on the disk."""
        self.l1_offset, self.l1_size = l1_offset, l1_size
        file, num_bytes = self._files.tables, l1_size * 8
        self._known.keep("L1 table", [(l1_offset, num_bytes)])
        self._known.keep_listed("L2 table", file, l1_offset, num_bytes, OFFSET_MASK)

    def table(self, rank: int) -> tuple[int, bool]:
        """Where an L2 table lies, 0 if there is none, and whether nothing else refers to it.

        Raises:
            CorruptImageError: If it lies nowhere.
        """
        if rank >= self.l1_size:
            return 0, False
        at = self.l1_offset + rank * 8
        entry = int.from_bytes(self._pages.read(Table.L1, at, 8), "big")
        offset = entry & OFFSET_MASK
        if offset % self._cluster_size:
            raise CorruptImageError(
                f"entry {rank} of the L1 table of {self._path} points to {offset:#x}, which is "
                "not the beginning of a cluster",
                path=self._path,
                offset=at,
            )
        return offset, bool(entry & COPIED)

    def read(self, rank: int, first: int, num: int) -> bytes | None:
        """Entries ``[first, first + num)`` of an L2 table; None if there is no table.

        Raises:
            ImageError: If they cannot be read.
        """
        offset, _ = self.table(rank)
        if not offset:
            return None
        at = offset + first * self.entry_bytes
        return self._pages.read(Table.L2, at, num * self.entry_bytes)

    def change(self, cluster: int, entries: bytes) -> None:
        """Change entries from guest cluster ``cluster`` on, of one table, which :meth:`own` owned.

        Raises:
            ImageError: If they cannot be read; then nothing is changed.
        """
        rank, first = divmod(cluster, self.per_table)
        offset, _ = self.table(rank)
        self._pages.change(Table.L2, offset + first * self.entry_bytes, entries)

    def own(self, rank: int, entry: bytes = b"") -> None:
        """Have an L2 table that may be changed: a new one, or a copy of one that others need.

        Args:
            rank: Of it.
            entry: What each entry of a new one is, where that is not a hole.

        Raises:
            ImageError: If there is no room for it.
        """
        old, is_own = self.table(rank)
        if old and is_own:
            return
        size = self._cluster_size
        content = entry * self.per_table or bytes(size)
        if old:
            self._allocation.check_in_use(old, size)
            content = self._files.tables.pread(size, old).ljust(size, b"\0")
        found = self._allocation.allocate(1)
        try:
            self._files.write(content, found.start * size)
            self._pages.forget(found.start * size, size)
            self._point(rank, old, found.start * size)
        except BaseException:
            self._allocation.give_back(found)
            raise
        if old:
            self._allocation.release(old, size)

    def drop(self, rank: int) -> None:
        """Have no L2 table where there is one; its cluster is released."""
        offset, _ = self.table(rank)
        self._allocation.check_in_use(offset, self._cluster_size)
        self._point(rank, offset, 0)
        self._allocation.release(offset, self._cluster_size)

    def _point(self, rank: int, old: int, new: int) -> None:
        entry = (new and new | COPIED).to_bytes(8, "big")
        self._pages.change(Table.L1, self.l1_offset + rank * 8, entry)
        if old:
            self._known.remove("L2 table", old // self._cluster_size)
        if new:
            self._known.add("L2 table", new // self._cluster_size)
