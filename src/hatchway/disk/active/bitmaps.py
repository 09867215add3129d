"""The bitmaps of a file that is written to: what was written is noted in those that are on.

The file says of a bitmap that it is in use from before the first write until the layer is
closed. So a crash leaves none that claims to hold and misses a write.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hatchway.disk.active.guest import GuestClusters
from hatchway.disk.active.known import DIRECTORY
from hatchway.disk.active.noting import Bits, Noted, keep
from hatchway.disk.bitmaps import (
    ALL_ONES,
    DIRTY_TRACKING,
    MAX_BITMAPS,
    MAX_DIRECTORY_BYTES,
    TABLE_RESERVED,
    Bitmap,
    Flag,
    bitmap_at,
)
from hatchway.disk.errors import CorruptImageError, UnsupportedImageError
from hatchway.disk.fields import Extension
from hatchway.disk.header import extension_at
from hatchway.disk.words import OFFSET_MASK

# QEMU's own bounds.
_MOST_BYTES = 1 << 29
_GRANULARITIES = range(9, 32)
_FLAGS = int(Flag.IN_USE | Flag.AUTO)
_OFFSET = np.uint64(OFFSET_MASK)
_WRONG = np.uint64(TABLE_RESERVED)
# Where the header extension says where the directory lies.
_DIRECTORY_AT = 16


class DirtyBitmaps:
    """The bitmaps of a file, all of them as the format has them today.

    Of those that were in use when the file was opened nothing is changed: what they say is out
    of date.

    Args:
        guest: The clusters of the file.
        directory: The bitmaps' directory.
        bitmaps: What that says; offsets count from its beginning.
    """

    def __init__(self, guest: GuestClusters, directory: bytes, bitmaps: list[Bitmap]) -> None:
        self._guest = guest
        self._directory = bytearray(directory)
        self._bitmaps = bitmaps
        self._marked: set[Bitmap] = set()
        # Once the disk was resized: the least size that it had, past which no stored bit holds.
        self._least: int | None = None
        tracking = [one.granularity_bits for one in bitmaps if _is_tracking(one)]
        self._noted = Noted(guest.header.size, min(tracking), max(tracking)) if tracking else None

    @classmethod
    def of(cls, guest: GuestClusters) -> DirtyBitmaps | None:
        """The bitmaps of a file; None if there are none, or they cannot be kept up.

        Raises:
            ImageError: If the file cannot be read.
        """
        if guest.header.bitmaps is None:
            return None
        number, num_bytes, offset = guest.header.bitmaps
        if not 0 < number <= MAX_BITMAPS or num_bytes > MAX_DIRECTORY_BYTES:
            return None
        directory = guest.files.tables.pread(num_bytes, offset)
        found: list[Bitmap] = []
        at = 0
        while at < num_bytes:
            bitmap = bitmap_at(lambda size, at: directory[at : at + size], at, len(directory))
            if bitmap is None or not _is_known(guest, bitmap):
                return None
            found.append(bitmap)
            at = bitmap.end
        if len(found) != number:
            return None
        places: list[tuple[int, int]] = []
        for bitmap in found:
            if not bitmap.is_in_use:
                table = _table(guest, bitmap)
                if (table & _WRONG).any() or (table[table & _OFFSET != 0] & ALL_ONES).any():
                    return None
                places.append((bitmap.table_offset, bitmap.table_size * 8))
                places += [(at, guest.cluster_size) for at in (table & _OFFSET).tolist() if at]
        if not all(_is_sound(guest, *place) for place in places):
            return None
        if not _is_sound(guest, offset, num_bytes, DIRECTORY):
            return None
        return cls(guest, directory, found)

    @property
    def granule_bytes(self) -> int:
        """Bytes of a granule of what is noted; 0 if nothing is."""
        return 0 if self._noted is None else 1 << self._noted.granularity_bits

    def begin(self) -> None:
        """Mark those that track writes as in use; it is on the disk on return.

        Raises:
            ImageWriteError: If that cannot be written.
        """
        self._mark({one for one in self._bitmaps if _is_tracking(one)})

    def begin_resize(self, size: int) -> None:
        """Mark all as in use, since the disk is to have another size.

        Raises:
            UnsupportedImageError: If one was in use before, or cannot be one of such a disk.
            ImageWriteError: If that cannot be written.
        """
        path = self._guest.files.tables.path
        for bitmap in self._bitmaps:
            if not bitmap.is_in_use and _table_size(self._guest, bitmap, size):
                continue
            name = bitmap.name(self._directory)
            said = (
                "is out of date, since its last writer did not store it"
                if bitmap.is_in_use
                else f"cannot be one of {size} bytes, at a bit for {1 << bitmap.granularity_bits}"
            )
            raise UnsupportedImageError(
                f"{path} cannot be resized: its bitmap {name!r} {said}; if it is not needed, "
                f"remove it: qemu-img bitmap --remove {path} {name}",
                path=path,
            )
        self._mark(set(self._bitmaps))
        if self._least is None:
            self._least = self._guest.header.size

    def resize(self) -> None:
        """The disk may have another size now."""
        assert self._least is not None
        size = self._guest.header.size
        self._least = min(self._least, size)
        if self._noted is not None:
            self._noted.resize(size)

    def note(self, start: int, end: int) -> None:
        """Note that ``[start, end)`` of the disk, which has some bytes, is written to."""
        if self._noted is not None:
            self._noted.note(start, end)

    def add(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        """Note what pieces of bits say: the byte where each begins, and its bytes."""
        if self._noted is not None:
            self._noted.add(pieces)

    def store(self) -> None:
        """Write the bitmaps, and that they hold, once all else is on the disk.

        All is written elsewhere, where QEMU would write it; then 8 bytes of the header lead
        there. Nothing is written if none was marked.

        Raises:
            ImageError: If not all could be written; then those that were marked are in use.
        """
        if not self._marked:
            return
        guest, path = self._guest, self._guest.files.tables.path
        assert guest.header.bitmaps is not None
        number, num_bytes, offset = guest.header.bitmaps
        unused = [(offset, num_bytes)]
        for bitmap in self._bitmaps:
            if not bitmap.is_in_use:
                table = self._stored(bitmap, unused)
                unused.append((bitmap.table_offset, bitmap.table_size * 8))
                where = self._write(table.tobytes())
                stored = bitmap._replace(table_offset=where, table_size=len(table))
                stored.write_to(self._directory)
        offset = self._write(bytes(self._directory))
        guest.allocation.refcounts.write()
        start = guest.files.tables.pread(guest.cluster_size, 0)
        at = extension_at(start, path, guest.header, Extension.BITMAPS)
        assert at is not None  # the header that names the bitmaps was read from there
        guest.files.write_header(offset.to_bytes(8, "big"), at + _DIRECTORY_AT)
        guest.header = guest.header._replace(bitmaps=(number, num_bytes, offset))
        guest.known.keep(DIRECTORY, [(offset, num_bytes)])
        self._marked.clear()
        for region in unused:
            guest.allocation.check_in_use(*region)
            guest.allocation.release(*region)
        guest.allocation.apply_releases()
        guest.allocation.refcounts.write()

    def _mark(self, bitmaps: set[Bitmap]) -> None:
        """Say in the file that some are in use, where it does not say so yet.

        The flags only are changed. Each lies in one sector, so whatever a cut leaves of them
        is right for what else is on the disk.
        """
        if bitmaps <= self._marked:
            return
        assert self._guest.header.bitmaps is not None
        _, _, offset = self._guest.header.bitmaps
        for bitmap in bitmaps:
            bitmap._replace(flags=bitmap.flags | Flag.IN_USE).write_to(self._directory)
        self._guest.files.write(self._directory, offset)
        self._guest.files.barrier()
        self._marked |= bitmaps

    def _stored(self, bitmap: Bitmap, unused: list[tuple[int, int]]) -> NDArray[Any]:
        """Write what changed of a bitmap; its table. What is needed no more goes to ``unused``."""
        guest, size = self._guest, self._guest.cluster_size
        old = _table(guest, bitmap).tolist()
        new = [0] * _table_size(guest, bitmap, guest.header.size)
        for rank, entry in enumerate(old[: len(new)] + new[len(old) :]):
            noted = None
            if self._noted is not None and bitmap.is_auto:
                noted = self._noted.piece(bitmap.granularity_bits, rank, size)
            left = self._num_left(bitmap, rank)
            if noted is None and left is None:
                new[rank] = entry
                continue
            before = self._content(entry)
            bits = before.copy()
            if left is not None:
                keep(bits, left)
            if noted is not None:
                bits |= noted
            if (bits == before).all():
                new[rank] = entry
            elif bits.any():
                new[rank] = self._write(bits.tobytes())
        gone = {entry & OFFSET_MASK for entry in old} - set(new)
        unused += [(offset, size) for offset in sorted(gone) if offset]
        return np.array(new, ">u8")

    def _num_left(self, bitmap: Bitmap, rank: int) -> int | None:
        """How many bits hold of a cluster of a bitmap; None for all that are of the disk."""
        if self._least is None:
            return None
        num_bits = self._guest.cluster_size * 8
        left = -(-self._least >> bitmap.granularity_bits) - rank * num_bits
        return max(left, 0) if left < num_bits else None

    def _content(self, entry: int) -> Bits:
        """The bits that an entry of a table stands for."""
        guest, size = self._guest, self._guest.cluster_size
        if entry & OFFSET_MASK:
            raw = guest.files.tables.pread(size, entry & OFFSET_MASK).ljust(size, b"\0")
            return np.frombuffer(raw, np.uint8)
        return np.full(size, 0xFF if entry & ALL_ONES else 0, np.uint8)

    def _write(self, data: bytes) -> int:
        """Write to free clusters; where they begin."""
        allocation, size = self._guest.allocation, self._guest.cluster_size
        num = -(-len(data) // size)
        found = allocation.allocate(1) if num == 1 else allocation.allocate_table(num)
        self._guest.files.write(data.ljust(num * size, b"\0"), found.start * size)
        return found.start * size


def _is_tracking(bitmap: Bitmap) -> bool:
    return bitmap.is_auto and not bitmap.is_in_use


def _is_known(guest: GuestClusters, bitmap: Bitmap) -> bool:
    """Whether nothing is said of a bitmap but what is understood here."""
    return (
        bitmap.kind == DIRTY_TRACKING
        and not bitmap.extra_bytes
        and not bitmap.flags & ~_FLAGS
        and bitmap.granularity_bits in _GRANULARITIES
        and (
            bitmap.is_in_use
            or 0 < bitmap.table_size == _table_size(guest, bitmap, guest.header.size)
        )
    )


def _table_size(guest: GuestClusters, bitmap: Bitmap, size: int) -> int:
    """How many entries the table of a bitmap has, if the disk has a size; 0 if there is none."""
    found = -(-size >> bitmap.granularity_bits + 3)
    num_clusters = -(-found // guest.cluster_size)
    return num_clusters if found <= _MOST_BYTES else 0


def _table(guest: GuestClusters, bitmap: Bitmap) -> NDArray[np.uint64]:
    """The entries of a bitmap's table."""
    raw = guest.files.tables.pread(bitmap.table_size * 8, bitmap.table_offset)
    return np.frombuffer(raw.ljust(bitmap.table_size * 8, b"\0"), ">u8").astype(np.uint64)


def _is_sound(guest: GuestClusters, offset: int, num_bytes: int, besides: str = "") -> bool:
    """Whether clusters are in use, and hold no table that is known, but of a kind."""
    size = guest.cluster_size
    if not offset or offset % size or offset >= guest.files.tables.file_bytes:
        return False
    clusters = range(offset // size, -(-(offset + num_bytes) // size))
    try:
        guest.known.check_clear(clusters, "its bitmaps say that they are", besides)
        guest.allocation.check_in_use(offset, num_bytes)
    except CorruptImageError:
        return False
    return True
