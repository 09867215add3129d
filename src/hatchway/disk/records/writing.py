"""Writing records, and appending to them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sized
from pathlib import Path

from hatchway.disk.errors import RecordsError
from hatchway.disk.records.layout import (
    HEADER_BYTES,
    MOST_RECORDS,
    PAGE_BYTES,
    PLACES_A_PAGE,
    Layout,
    aligned,
    check_alignment,
    pack_page,
    parse_layout,
    unpack_page,
)
from hatchway.disk.records.targets import ReadTarget, WriteTarget

_TABLE_OFFSET = 4096
# Room that nobody asked for: 8 MiB of table, which a file with holes does not take.
_LEAST_CAPACITY = 1 << 20
# Written at a time, if there are as many.
_RUN_BYTES = 1 << 20
_ANY_SIZE = 1 << 63


def write_records(
    target: WriteTarget,
    records: Iterable[bytes],
    *,
    alignment: int = 8,
    capacity: int | None = None,
) -> int:
    """Write records from the beginning of a disk on, over what is there.

    When it returns they survive a crash. If it is cut short, the disk holds no records.

    Args:
        target: The disk; what it raises comes through.
        records: Each one's bytes, in order; taken one at a time.
        alignment: What the beginning of each is a multiple of: a power of two. 4096 where
            layers are to share as many clusters as they can.
        capacity: How many there may ever be, appended ones included; by default twice as many
            as there are, and 1,048,576 at least. Each takes 8 bytes of the disk, which lie
            nowhere until they are used.

    Returns:
        How many were written.

    Raises:
        ValueError: If ``alignment`` or ``capacity`` is not possible.
        RecordsError: If there are more than ``capacity``.
    """
    check_alignment(alignment)
    if capacity is None:
        known = len(records) if isinstance(records, Sized) else 0
        capacity = max(2 * known, _LEAST_CAPACITY)
    if not 0 <= capacity <= MOST_RECORDS:
        raise ValueError(f"capacity must be from 0 to {MOST_RECORDS}, not {capacity}")
    target.write_at(0, bytes(HEADER_BYTES))
    target.flush()
    empty = Layout(0, capacity, _TABLE_OFFSET, 0, alignment, 0)
    return _write(target, records, empty._replace(end=empty.first), [empty.first], 0)


def append_records(target: ReadTarget, records: Iterable[bytes]) -> int:
    """Append records to those that a disk holds.

    Writes the new ones, their places and the header, nothing else: in a new layer of a chain
    that is what the layer takes. When it returns they survive a crash. If it is cut short, the
    disk holds the records that it held before.

    Args:
        target: The disk; what it raises comes through.
        records: Each one's bytes, in order; taken one at a time.

    Returns:
        How many the disk holds now.

    Raises:
        RecordsError: If it holds none, or damaged ones, or has no room for more in its table.
    """
    path = Path(getattr(target, "path", "the target"))
    layout = parse_layout(target.read_at(0, HEADER_BYTES), path, _ANY_SIZE)
    page = layout.num_records // PLACES_A_PAGE
    raw = target.read_at(layout.page_at(page), PAGE_BYTES)
    places = [int(place) for place in unpack_page(raw, page, layout, path)]
    return _write(target, records, layout, places, len(places))


def _write(
    target: WriteTarget,
    records: Iterable[bytes],
    layout: Layout,
    places: list[int],
    num_written: int,
) -> int:
    """Write records after those of ``layout``.

    Args:
        target: Where.
        records: What.
        layout: Of what is there.
        places: Of its last page.
        num_written: How many of those lie in the target.
    """
    count, end, page = layout.num_records, layout.end, layout.num_records // PLACES_A_PAGE
    run, run_start = bytearray(), end
    for record in records:
        if count == layout.capacity:
            raise RecordsError(
                f"there is room for {layout.capacity} records; write all of them anew with a "
                "larger capacity",
                path=Path(getattr(target, "path", "the target")),
            )
        start = aligned(end, layout.alignment)
        run += bytes(start - end)
        run += record
        end = start + len(record)
        if len(places) == PLACES_A_PAGE:
            _write_places(target, layout, page, places, num_written)
            page, places, num_written = page + 1, [], 0
        places.append(end)
        count += 1
        if len(run) >= _RUN_BYTES:
            target.write_at(run_start, bytes(run))
            run, run_start = bytearray(), end
    if run:
        target.write_at(run_start, bytes(run))
    _write_places(target, layout, page, places, num_written)
    target.flush()
    tail = zlib.crc32(pack_page(places)[: len(places) * 8])
    done = layout._replace(num_records=count, end=end, tail_checksum=tail)
    target.write_at(0, done.packed())
    target.flush()
    return count


def _write_places(
    target: WriteTarget, layout: Layout, page: int, places: list[int], num_written: int
) -> None:
    new = pack_page(places)[num_written * 8 :]
    if new:
        target.write_at(layout.page_at(page) + num_written * 8, new)
