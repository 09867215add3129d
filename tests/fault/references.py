"""Counting what refers to each cluster of a qcow2 file, to hold it against the refcounts."""

from __future__ import annotations

import struct
from collections import Counter

from hatchway.disk.header import Header
from hatchway.disk.image import Image

OFFSETS = 0x00FFFFFFFFFFFE00


def counted_too_low(image: Image) -> list[str]:
    """The host clusters that more refers to than their refcounts say."""
    header = image.header
    assert header is not None
    references = _references(image, header)
    found = []
    for cluster, (times, what) in references.items():
        count = _refcount(image, header, cluster)
        if count < times:
            found.append(f"{what} in cluster {cluster}: {times} references, refcount {count}")
    return found


def _references(image: Image, header: Header) -> dict[int, tuple[int, str]]:
    times: Counter[int] = Counter()
    what: dict[int, str] = {}

    def refer(offset: int, num_bytes: int, role: str) -> None:
        size = header.cluster_size
        for cluster in range(offset // size, -(-(offset + num_bytes) // size)):
            times[cluster] += 1
            what[cluster] = role

    size = header.cluster_size
    refer(0, size, "the header")
    table_bytes = header.refcount_table_clusters * size
    refer(header.refcount_table_offset, table_bytes, "the refcount table")
    for block in _words(image, header.refcount_table_offset, table_bytes):
        if block:
            refer(block, size, "a refcount block")
    if header.num_snapshots:
        refer(header.snapshots_offset, 1, "the snapshot table")
    for offset, num in [
        (header.l1_offset, header.l1_size),
        *((one.l1_offset, one.l1_size) for one in image.snapshots()),
    ]:
        refer(offset, num * 8, "an L1 table")
        for table in _words(image, offset, num * 8):
            if table & OFFSETS:
                refer(table & OFFSETS, size, "an L2 table")
                _refer_clusters(image, header, table & OFFSETS, refer)
    return {cluster: (num, what[cluster]) for cluster, num in times.items()}


def _refer_clusters(image: Image, header: Header, table: int, refer: object) -> None:
    assert callable(refer)
    entries = _words(image, table, header.cluster_size)[:: header.l2_entry_bytes // 8]
    for entry in entries:
        if entry >> 62 & 1:
            bits = 62 - (header.cluster_bits - 8)
            offset, sectors = entry & ((1 << bits) - 1), (entry & (1 << 62) - 1) >> bits
            refer(offset, (sectors + 1) * 512 - offset % 512, "a compressed cluster")
        elif entry & OFFSETS and not header.has_data_file:
            refer(entry & OFFSETS, header.cluster_size, "data")


def _refcount(image: Image, header: Header, cluster: int) -> int:
    bits = 1 << header.refcount_order
    per_block = header.cluster_size * 8 // bits
    rank, within = divmod(cluster, per_block)
    if rank >= header.refcount_table_clusters * header.cluster_size // 8:
        return 0
    block = _words(image, header.refcount_table_offset + rank * 8, 8)[0]
    if not block:
        return 0
    if bits >= 8:
        return int.from_bytes(image.file.read(bits // 8, block + within * bits // 8), "big")
    (byte,) = image.file.read(1, block + within * bits // 8)
    return byte >> within * bits % 8 & (1 << bits) - 1


def _words(image: Image, offset: int, num_bytes: int) -> tuple[int, ...]:
    raw = image.file.read(num_bytes, offset)
    return struct.unpack(f">{num_bytes // 8}Q", raw.ljust(num_bytes, b"\0"))
