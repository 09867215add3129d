"""The directory of a file's bitmaps, and the entries of their tables.

The format: "Bitmaps" in QEMU's documentation of qcow2 (``docs/interop/qcow2.txt``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntFlag
from typing import NamedTuple

_FIXED = struct.Struct(">QIIBBHI")
# What a writer changes of an entry: where its table lies, the entries of that, its flags.
_CHANGED = struct.Struct(">QII")

# The one kind that there is: which granules were written to.
DIRTY_TRACKING = 1
# Of an entry of a table: bits that must be 0; that all bits are ones, where no cluster is named.
TABLE_RESERVED = 0xFF000000000001FE
ALL_ONES = 1
# QEMU's own bounds.
MAX_BITMAPS = 65535
MAX_DIRECTORY_BYTES = MAX_BITMAPS * 1024


class Flag(IntFlag):
    """What is said of a bitmap: that a writer has it in memory, and that it tracks writes."""

    IN_USE = 1 << 0
    AUTO = 1 << 1


class Bitmap(NamedTuple):
    """An entry of the directory.

    Attributes:
        at: Where it begins.
        end: Where the next one begins.
        table_offset: Where the bitmap's table lies.
        table_size: Entries of that.
        flags: See :class:`Flag`.
        kind: ``DIRTY_TRACKING``.
        granularity_bits: Binary logarithm of the bytes of the disk that a bit stands for.
        name_bytes: Bytes of its name.
        extra_bytes: Bytes of what only others understand.
    """

    at: int
    end: int
    table_offset: int
    table_size: int
    flags: int
    kind: int
    granularity_bits: int
    name_bytes: int
    extra_bytes: int

    @property
    def is_in_use(self) -> bool:
        """Whether what its table says is out of date."""
        return bool(self.flags & Flag.IN_USE)

    @property
    def is_auto(self) -> bool:
        """Whether whoever writes to the disk notes it in this bitmap."""
        return bool(self.flags & Flag.AUTO)

    def name(self, directory: bytes | bytearray) -> str:
        """Its name, of a directory that ``at`` counts from the beginning of."""
        start = self.at + _FIXED.size + self.extra_bytes
        return directory[start : start + self.name_bytes].decode("utf-8", "replace")

    def write_to(self, directory: bytearray) -> None:
        """Have a directory, which ``at`` counts from the beginning of, say what this does."""
        _CHANGED.pack_into(directory, self.at, self.table_offset, self.table_size, self.flags)


def bitmap_at(read: Callable[[int, int], bytes], at: int, end: int) -> Bitmap | None:
    """An entry of a directory; None where that ends within it.

    Args:
        read: Bytes of the directory: how many, and from where.
        at: Where the entry begins.
        end: Where the directory ends.
    """
    raw = read(_FIXED.size, at)
    if at + _FIXED.size > end or len(raw) < _FIXED.size:
        return None
    fields = _FIXED.unpack(raw)
    stop = (at + _FIXED.size + sum(fields[-2:]) + 7) & ~7  # its name, and what others understand
    return Bitmap(at, stop, *fields) if stop <= end else None
