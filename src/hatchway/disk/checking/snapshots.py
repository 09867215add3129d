"""The snapshot table of a file, as far as it says where L1 tables lie."""

from __future__ import annotations

import struct

from hatchway.disk.checking.clusters import Clusters
from hatchway.disk.checking.findings import Finding, Findings
from hatchway.disk.header import MAX_L1_BYTES, MAX_SNAPSHOTS
from hatchway.disk.image import Image

_ENTRY = struct.Struct(">QIHHIIQII")
# The sizes of the disk and of a machine's state.
_LEAST_EXTRA_BYTES = 16
# QEMU's own bounds.
_MAX_EXTRA_BYTES = 1024
_MAX_TABLE_BYTES = MAX_SNAPSHOTS * 1024


def refer(image: Image, clusters: Clusters, findings: Findings) -> list[tuple[int, int]]:
    """Count references to the snapshot table and to the L1 tables that it names.

    Returns:
        Where those L1 tables lie that can be followed: beginning and end.
    """
    assert image.header is not None
    header = image.header
    if not header.num_snapshots:
        return []
    if header.num_snapshots > MAX_SNAPSHOTS:
        said = f"the header names {header.num_snapshots} snapshots"
        findings.note(Finding("contradiction", said, 60), hides_references=True)
        return []
    tables: list[tuple[int, int]] = []
    at = header.snapshots_offset
    for rank in range(header.num_snapshots):
        raw = image.file.read(_ENTRY.size, at)
        if len(raw) < _ENTRY.size or at - header.snapshots_offset > _MAX_TABLE_BYTES:
            said = f"the snapshot table ends within entry {rank} of {header.num_snapshots}"
            findings.note(Finding("contradiction", said, at), hides_references=True)
            return tables
        offset, size, id_bytes, name_bytes, _, _, _, _, extra_bytes = _ENTRY.unpack(raw)
        if extra_bytes > _MAX_EXTRA_BYTES:
            said = f"snapshot {rank} is said to have {extra_bytes} bytes of extra data"
            findings.note(Finding("contradiction", said, at), hides_references=True)
            return tables
        if header.version >= 3 and extra_bytes < _LEAST_EXTRA_BYTES:
            said = f"snapshot {rank} has {extra_bytes} bytes of extra data, too few for version 3"
            findings.note(Finding("contradiction", said, at), hides_references=True)
        if size * 8 > MAX_L1_BYTES:
            said = f"the L1 table of snapshot {rank} is said to have {size} entries"
            findings.note(Finding("contradiction", said, at), hides_references=True)
        elif clusters.refer_to_table(f"the L1 table of snapshot {rank}", offset, size * 8):
            tables.append((offset, offset + size * 8))
        at += (_ENTRY.size + extra_bytes + id_bytes + name_bytes + 7) & ~7
    num_bytes = at - header.snapshots_offset
    clusters.refer_to_table("the snapshot table", header.snapshots_offset, num_bytes)
    return tables
