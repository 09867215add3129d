"""Pages of the tables of a file: read once, changed in memory, written when it is their turn."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from hatchway.disk.active.known import KnownTables
from hatchway.disk.active.ordered import OrderedFiles
from hatchway.disk.errors import CorruptImageError

# A change costs a write of this much, and no more than a cluster.
_PAGE_BYTES = 4096
_MOST_AT_ONCE = 64


class Table(IntEnum):
    """What a page is part of."""

    REFCOUNT_BLOCK = 0
    REFCOUNT_TABLE = 1
    L2 = 2
    L1 = 3


_ROLES = ("refcount block", "refcount table", "L2 table", "L1 table")


class Pages:
    """The pages that were used last, bounded in bytes.

    A page that was changed stays until it is written. Whoever changes pages looks at
    :attr:`is_full` before, and has them written if so.

    Args:
        files: Where they lie.
        cluster_size: Of the file, in bytes.
        most_bytes: What the pages may take together.
        known: Where tables lie: a page of one is not written where another lies.
        entry_words: Words of an L2 entry; 0 if they point to another file.
    """

    def __init__(
        self,
        files: OrderedFiles,
        cluster_size: int,
        most_bytes: int,
        known: KnownTables,
        entry_words: int,
    ) -> None:
        self._cluster_size, self._known = cluster_size, known
        self._entry_words = entry_words
        self.page_bytes = min(cluster_size, _PAGE_BYTES)
        self._files = files
        self._most = max(16, most_bytes // (self.page_bytes + 200))
        self._pages: dict[int, bytearray] = {}
        self._changed: dict[Table, set[int]] = {table: set() for table in Table}

    @property
    def num_bytes(self) -> int:
        """What they take now."""
        return len(self._pages) * (self.page_bytes + 200)

    @property
    def is_full(self) -> bool:
        """Whether so many are changed that they should be written."""
        return sum(map(len, self._changed.values())) > self._most // 2

    def has_changed(self, table: Table) -> bool:
        """Whether pages of such a table wait to be written."""
        return bool(self._changed[table])

    def read(self, table: Table, offset: int, num_bytes: int) -> bytes:
        """Bytes of a table as it is, what was not written yet included.

        Raises:
            CorruptImageError: If the table lies past the end of the file.
            ImageError: If it cannot be read.
        """
        start = offset - offset % self.page_bytes
        if offset + num_bytes <= start + self.page_bytes:
            return bytes(self._page(table, start)[offset - start : offset - start + num_bytes])
        pieces = []
        while num_bytes > 0:
            start = offset - offset % self.page_bytes
            piece = self._page(table, start)[offset - start : offset - start + num_bytes]
            pieces.append(bytes(piece))
            offset, num_bytes = offset + len(piece), num_bytes - len(piece)
        return b"".join(pieces)

    def change(self, table: Table, offset: int, data: bytes) -> None:
        """Change bytes of a table, in memory only.

        Raises:
            CorruptImageError: As in :meth:`read`, or if another table lies there; then nothing
                is changed.
            ImageError: As in :meth:`read`; then nothing is changed.
        """
        parts = []
        at = 0
        while at < len(data):
            start = (offset + at) - (offset + at) % self.page_bytes
            stop = min(len(data), start + self.page_bytes - offset)
            if start not in self._changed[table]:
                cluster = start // self._cluster_size
                said = f"its {_ROLES[table]} is"
                self._known.check_clear(range(cluster, cluster + 1), said, _ROLES[table])
            parts.append((start, self._page(table, start), offset + at - start, data[at:stop]))
            at = stop
        for start, page, within, piece in parts:
            page[within : within + len(piece)] = piece
            self._pages[start] = page
            self._changed[table].add(start)

    def write(self, table: Table) -> None:
        """Write what was changed of such tables.

        Raises:
            ImageWriteError: If it cannot be written; what was not is kept.
        """
        changed = sorted(self._changed[table])
        first = 0
        while first < len(changed):
            end = first + 1
            while (
                end < min(len(changed), first + _MOST_AT_ONCE)
                and changed[end] == changed[end - 1] + self.page_bytes
            ):
                end += 1
            run = changed[first:end]
            self._files.write(b"".join(self._pages[start] for start in run), run[0])
            self._changed[table].difference_update(run)
            first = end

    def forget(self, offset: int, num_bytes: int) -> None:
        """Keep nothing of a part of the file, which becomes a table or is none any more."""
        for start in range(offset, offset + num_bytes, self.page_bytes):
            if self._pages.pop(start, None) is not None:
                for changed in self._changed.values():
                    changed.discard(start)

    def _page(self, table: Table, start: int) -> bytearray:
        page = self._pages.pop(start, None)
        if page is None:
            self._make_room()
            file = self._files.tables
            raw = file.pread(self.page_bytes, start)
            if not raw:
                raise CorruptImageError(
                    f"the {_ROLES[table]} of {file.path} at {start:#x} lies past the end of the "
                    f"file ({file.file_bytes} bytes); run `qemu-img check {file.path}`",
                    path=file.path,
                    offset=start,
                )
            page = bytearray(raw.ljust(self.page_bytes, b"\0"))
            if table is Table.L2 and self._entry_words:
                entries = np.frombuffer(raw[: len(raw) // 8 * 8], ">u8")[:: self._entry_words]
                self._known.look_at(entries.astype(np.uint64))
        self._pages[start] = page
        return page

    def _make_room(self) -> None:
        if len(self._pages) < self._most:
            return
        # The oldest first; those that were changed wait for their turn.
        changed = set().union(*self._changed.values())
        unchanged = (start for start in self._pages if start not in changed)
        wanted = len(self._pages) - self._most * 7 // 8
        for start in [start for start, _ in zip(unchanged, range(wanted), strict=False)]:
            del self._pages[start]
