"""Changing the size of the guest's disk."""

from __future__ import annotations

import struct

from hatchway.disk.active.entry import Entry
from hatchway.disk.active.guest import GuestClusters
from hatchway.disk.active.zeroing import write_zeroes
from hatchway.disk.errors import UnsupportedImageError
from hatchway.disk.header import MAX_L1_BYTES

_SECTOR = 512
_PIECE_BYTES = 1 << 20
_SIZE_AT = 24
_L1_FIELDS = struct.Struct(">IQ")
_L1_FIELDS_AT = 36


def resize(guest: GuestClusters, size: int) -> None:
    """Make the guest's disk shorter, or longer with zeros; it is on the disk on return.

    Args:
        guest: Its clusters.
        size: In bytes.

    Raises:
        ValueError: If no disk of the file can have that size.
        UnsupportedImageError: If the file would not say how long its snapshots are.
        ImageError: If something could not be written. The header says which size it has then.
    """
    header = guest.header
    if size < 0 or size % _SECTOR or size >= 1 << 63:
        raise ValueError(f"size must be a multiple of {_SECTOR}, from 0 to 2**63, not {size}")
    l1_size = -(-size // (guest.tables.per_table * guest.cluster_size))
    if l1_size * 8 > MAX_L1_BYTES:
        raise ValueError(
            f"a disk of {size} bytes needs an L1 table of {l1_size} entries at clusters of "
            f"{guest.cluster_size} bytes; {MAX_L1_BYTES // 8} are possible"
        )
    if header.num_snapshots and header.version < 3:
        path = guest.files.tables.path
        raise UnsupportedImageError(
            f"{path} is of version 2 and has internal snapshots, which do not say how long they "
            f"are; `qemu-img amend -o compat=1.1 {path}` makes it version 3",
            path=path,
        )
    if size > header.size:
        _grow(guest, size, l1_size)
    elif size < header.size:
        _shrink(guest, size)
    guest.commit()


def _grow(guest: GuestClusters, size: int, l1_size: int) -> None:
    if l1_size > guest.tables.l1_size:
        _grow_l1(guest, l1_size)
    before = guest.header
    guest.header = before._replace(size=size)
    try:
        # What lies below, or was written before the disk was shorter, is not seen again.
        write_zeroes(guest, before.size, size, may_unmap=True, keeps_holes=True)
        if before.has_raw_data_file and guest.files.data.file_bytes < size:
            guest.files.resize_data(size)
        guest.commit()
        guest.files.write_header(size.to_bytes(8, "big"), _SIZE_AT)
    except BaseException:
        guest.header = before
        raise


def _grow_l1(guest: GuestClusters, l1_size: int) -> None:
    """Have an L1 table of more entries, elsewhere; the old one is released."""
    tables, cluster_size, file = guest.tables, guest.cluster_size, guest.files.tables
    found = guest.allocation.allocate_table(-(-l1_size * 8 // cluster_size))
    start, num_bytes = found.start * cluster_size, len(found) * cluster_size
    old, old_bytes = tables.l1_offset, tables.l1_size * 8
    try:
        guest.commit()
        for at in range(0, num_bytes, _PIECE_BYTES):
            piece = min(_PIECE_BYTES, num_bytes - at)
            raw = file.pread(min(piece, old_bytes - at), old + at) if at < old_bytes else b""
            guest.files.write(raw.ljust(piece, b"\0"), start + at)
    except BaseException:
        guest.allocation.give_back(found)
        raise
    guest.files.write_header(_L1_FIELDS.pack(l1_size, start), _L1_FIELDS_AT)
    guest.header = guest.header._replace(l1_size=l1_size, l1_offset=start)
    tables.become(start, l1_size)
    first = old // cluster_size
    guest.allocation.give_back(range(first, first + -(-old_bytes // cluster_size)))


def _shrink(guest: GuestClusters, size: int) -> None:
    # The size first: what is dropped would show what lies below. What a cut leaves behind past
    # the end is not seen, and not when the disk grows again.
    guest.commit()
    guest.files.write_header(size.to_bytes(8, "big"), _SIZE_AT)
    guest.header = guest.header._replace(size=size)
    if guest.header.has_raw_data_file:
        guest.files.resize_data(size)
    first = -(-size // guest.cluster_size)
    per_table = guest.tables.per_table
    rank = first // per_table
    if first % per_table and guest.tables.table(rank)[0]:
        for cluster in range(first, (rank + 1) * per_table):
            guest.relieve()
            _drop_cluster(guest, cluster)
    for whole in range(-(-first // per_table), guest.tables.l1_size):
        guest.relieve()
        if guest.tables.table(whole)[0]:
            drop_table(guest, whole)


def _drop_cluster(guest: GuestClusters, cluster: int) -> None:
    old = guest.entry(cluster)
    if old != Entry():
        guest.check_release(old)
        guest.tables.own(cluster // guest.tables.per_table)
        guest.put(cluster, [Entry()])
        guest.release(old)
        guest.say_changed(cluster, 1)


def drop_table(guest: GuestClusters, rank: int) -> None:
    """Release an L2 table and all that it refers to.

    Nothing is written in between: what is released waits until the table is gone.
    """
    first = rank * guest.tables.per_table
    entries = []
    for start in range(0, guest.tables.per_table, 64):
        raw = guest.tables.read(rank, start, 64)
        if raw is not None and any(raw):
            clusters = range(first + start, first + start + 64)
            entries += [entry for entry in map(guest.entry, clusters) if entry != Entry()]
    for entry in entries:
        guest.check_release(entry)
    guest.tables.drop(rank)
    for entry in entries:
        guest.release(entry)
    guest.say_changed(first, guest.tables.per_table)
