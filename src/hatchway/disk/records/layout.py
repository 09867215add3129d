"""How records lie in an image: a header, a table of where each one ends, the records.

All numbers are little-endian. The table is made of pages of 4096 bytes: 511 places of 8 bytes,
the checksum of those as 4 bytes, 4 bytes of zeros. The first place is where the first record
begins; each other one is where a record ends. The next begins there, rounded up to the
alignment. So an append adds places, and changes none.

The page that the last place lies in is checked by the header, as far as it is filled: what an
append that was cut short left after it does no harm.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hatchway.disk.errors import RecordsError

MAGIC = b"hatchrec"
VERSION = 1
# One sector: it is written whole or not at all.
HEADER_BYTES = 512
PAGE_BYTES = 4096
PLACES_A_PAGE = 511
MOST_RECORDS = 1 << 48

_FIELDS = struct.Struct("<8sIIQQQQII")
_CHECKSUM = struct.Struct("<I")
_CHECKSUM_AT = PLACES_A_PAGE * 8
_MOST_ALIGNMENT = 1 << 30


class Layout(NamedTuple):
    """The header of records.

    Attributes:
        num_records: How many there are.
        capacity: How many the table has room for.
        table_offset: Where the table lies.
        end: Where the last record ends.
        alignment: What the beginning of each record is a multiple of.
        tail_checksum: Of the places of the last page, as far as it is filled.
    """

    num_records: int
    capacity: int
    table_offset: int
    end: int
    alignment: int
    tail_checksum: int

    @property
    def first(self) -> int:
        """Where the first record may begin: after the table."""
        num_pages = (self.capacity + 1 + PLACES_A_PAGE - 1) // PLACES_A_PAGE
        return aligned(self.table_offset + num_pages * PAGE_BYTES, self.alignment)

    def page_at(self, page: int) -> int:
        """Where a page of the table lies."""
        return self.table_offset + page * PAGE_BYTES

    def packed(self) -> bytes:
        """Its bytes."""
        fields = (MAGIC, VERSION, 0, self.num_records, self.capacity, self.table_offset, self.end)
        raw = bytearray(_FIELDS.pack(*fields, self.alignment, self.tail_checksum))
        raw = raw.ljust(HEADER_BYTES, b"\0")
        struct.pack_into("<I", raw, 12, zlib.crc32(raw))
        return bytes(raw)


def aligned(offset: int, alignment: int) -> int:
    """The first multiple of ``alignment`` that is not before ``offset``."""
    return -(-offset // alignment) * alignment


def check_alignment(alignment: int) -> None:
    """Raise ``ValueError`` if records cannot be aligned so."""
    if not 1 <= alignment <= _MOST_ALIGNMENT or alignment & (alignment - 1):
        raise ValueError(f"alignment must be a power of two up to 2**30, not {alignment}")


def parse_layout(raw: bytes, path: Path, size: int) -> Layout:
    """Read a header.

    Args:
        raw: The first ``HEADER_BYTES`` of the disk.
        path: For messages.
        size: Of the disk, in bytes.

    Raises:
        RecordsError: If it is none, is damaged, or is of another version.
    """
    if len(raw) < HEADER_BYTES or not raw.startswith(MAGIC):
        raise RecordsError(
            f"the disk of {path} holds no records; write_records makes them", path=path
        )
    (_, version, checksum, count, capacity, table_offset, end, alignment, tail) = (
        _FIELDS.unpack_from(raw)
    )
    if version != VERSION:
        raise RecordsError(
            f"{path} holds records of version {version}; {VERSION} can be read", path=path
        )
    if zlib.crc32(raw[:12] + bytes(4) + raw[16:]) != checksum:
        raise RecordsError(
            f"the header of the records in {path} does not match its checksum", path=path
        )
    # A checksum says that nothing was damaged, not that whoever wrote it meant well.
    layout = Layout(count, capacity, table_offset, end, alignment, tail)
    if not 1 <= alignment <= _MOST_ALIGNMENT or alignment & (alignment - 1):
        raise RecordsError(f"the records in {path} are aligned to {alignment} bytes", path=path)
    if count > capacity or capacity > MOST_RECORDS:
        raise RecordsError(
            f"{path} is said to hold {count} records, with room for {capacity}", path=path
        )
    # Without a byte of records a file may end before the place where they would begin.
    is_in_disk = layout.first <= end <= size or end == layout.first
    if table_offset < HEADER_BYTES or not is_in_disk:
        raise RecordsError(
            f"the records in {path} are said to lie from {layout.first:#x} to {end:#x} of a disk "
            f"of {size} bytes; if it was cut, give it back its size",
            path=path,
        )
    return layout


def pack_page(places: list[int]) -> bytes:
    """The bytes of a page; without a checksum, and cut short, if it is not full."""
    raw = np.array(places, "<u8").tobytes()
    if len(places) == PLACES_A_PAGE:
        raw += _CHECKSUM.pack(zlib.crc32(raw)) + bytes(4)
    return raw


def unpack_page(raw: bytes, page: int, layout: Layout, path: Path) -> memoryview:
    """The places of a page, as far as it is filled.

    Args:
        raw: The bytes of the page; what is missing of them lies past the end of the disk.
        page: Its number.
        layout: Of the records.
        path: For messages.

    Raises:
        RecordsError: If they do not match their checksum.
    """
    filled = min(PLACES_A_PAGE, layout.num_records + 1 - page * PLACES_A_PAGE)
    is_last = page == layout.num_records // PLACES_A_PAGE
    raw = raw.ljust(PAGE_BYTES, b"\0")
    (checksum,) = (layout.tail_checksum,) if is_last else _CHECKSUM.unpack_from(raw, _CHECKSUM_AT)
    if zlib.crc32(raw[: filled * 8]) == checksum:
        return np.frombuffer(raw[: filled * 8], "<u8").astype(np.uint64).data
    raise RecordsError(
        f"page {page} of the table of the records in {path} does not match its checksum: of "
        f"records {max(0, page * PLACES_A_PAGE - 1)} to {page * PLACES_A_PAGE + filled - 2} it is "
        "not known where they lie",
        path=path,
        offset=layout.page_at(page),
    )
