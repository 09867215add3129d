"""What the bitmaps of a file refer to: their directory, their tables, their clusters."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hatchway.disk.bitmaps import (
    ALL_ONES,
    MAX_BITMAPS,
    MAX_DIRECTORY_BYTES,
    TABLE_RESERVED,
    bitmap_at,
)
from hatchway.disk.checking.clusters import IS_FIXED, Clusters
from hatchway.disk.checking.findings import Finding, Findings
from hatchway.disk.checking.regions import disjoint
from hatchway.disk.image import Image
from hatchway.disk.words import OFFSET_MASK

_RESERVED = np.uint64(TABLE_RESERVED)
_ALL_ONES = np.uint64(ALL_ONES)
_OFFSET = np.uint64(OFFSET_MASK)
# QEMU's own bound.
_MAX_TABLE_BYTES = 1 << 30
_PIECE_BYTES = 1 << 20


def refer(image: Image, clusters: Clusters, findings: Findings) -> None:
    """Count the references of bitmaps, where the header says that they hold."""
    assert image.header is not None
    if image.header.bitmaps is None:
        return
    number, num_bytes, offset = image.header.bitmaps
    if number > MAX_BITMAPS or num_bytes > MAX_DIRECTORY_BYTES:
        said = f"the header names {number} bitmaps, with a directory of {num_bytes} bytes"
        findings.note(Finding("contradiction", said), hides_references=True)
        return
    if not clusters.refer_to_table("the directory of the bitmaps", offset, num_bytes):
        return
    tables = []
    for rank, (at, size) in enumerate(_tables(image, number, num_bytes, offset, findings)):
        if size > _MAX_TABLE_BYTES:
            said = f"the table of bitmap {rank} is said to have {size} bytes"
            findings.note(Finding("contradiction", said), hides_references=True)
        elif clusters.refer_to_table(f"the table of bitmap {rank}", at, size):
            tables.append((at, at + size))
    for region in disjoint(tables):
        for start in range(region.start, region.end, _PIECE_BYTES):
            _refer_piece(image, clusters, findings, start, min(region.end, start + _PIECE_BYTES))


def _tables(
    image: Image, number: int, num_bytes: int, offset: int, findings: Findings
) -> Iterator[tuple[int, int]]:
    """Where the table of each bitmap lies, and its bytes."""
    at, end = offset, offset + num_bytes
    for rank in range(number):
        bitmap = bitmap_at(image.file.read, at, end)
        if bitmap is None:
            said = f"the directory of the bitmaps ends within entry {rank} of {number}"
            findings.note(Finding("contradiction", said, at), hides_references=True)
            return
        yield bitmap.table_offset, bitmap.table_size * 8
        at = bitmap.end
    if at != end:
        said = f"the directory of the bitmaps has {end - at} bytes after its last entry"
        findings.note(Finding("contradiction", said, at))


def _refer_piece(
    image: Image, clusters: Clusters, findings: Findings, start: int, end: int
) -> None:
    raw = image.file.read(end - start, start)
    entries = np.frombuffer(raw[: len(raw) & ~7], ">u8").astype(np.uint64)
    offsets = (entries & _OFFSET).astype(np.int64)
    places = np.arange(len(entries), dtype=np.int64) * 8 + start
    # A bit says that all of it is ones, and stands for a place.
    wrong = ((entries & _RESERVED) != 0) | ((offsets != 0) & ((entries & _ALL_ONES) != 0))
    findings.note_all(
        "reserved bits",
        "an entry of a bitmap's table has bits that must be 0",
        offsets=places[wrong],
        hosts=offsets[wrong],
    )
    misaligned = offsets % clusters.size != 0
    findings.note_all(
        "misaligned",
        "an entry of a bitmap's table does not point to the beginning of a cluster",
        offsets=places[misaligned],
        hosts=offsets[misaligned],
        hides_references=True,
    )
    beyond = offsets > clusters.file_bytes
    findings.note_all(
        "past the end",
        "an entry of a bitmap's table points past the end of the file",
        offsets=places[beyond],
        hosts=offsets[beyond],
        hides_references=True,
    )
    found = offsets[(offsets != 0) & ~misaligned & ~beyond] // clusters.size
    clusters.refer(found, np.ones(len(found), np.int64), IS_FIXED)
