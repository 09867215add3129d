"""Repairing refcounts, copied flags and the header of a file.

The order is such that the file is no worse wherever it is cut short. Each refcount that is
changed is right from then on, whatever comes of the others, and lies within one sector. Only
then are copied flags changed: a flag that is set too early makes a writer overwrite what a
snapshot holds. The bits of the header are taken back last.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hatchway.disk.checking.survey import Survey
from hatchway.disk.errors import ImageError
from hatchway.disk.fields import (
    AUTOCLEAR_AT,
    AUTOCLEAR_BITMAPS,
    AUTOCLEAR_RAW_DATA_FILE,
    COPIED,
    INCOMPATIBLE_AT,
    REFCOUNT_TABLE_AT,
    Feature,
)
from hatchway.disk.files import write_all
from hatchway.disk.header import Header
from hatchway.disk.refcount_bits import MAX_REFCOUNT_TABLE_BYTES, packed_counts

# A number: what is not a feature keeps its bits when this is inverted.
_DIRTY_OR_CORRUPT = int(Feature.DIRTY | Feature.CORRUPT)
# Neither is harmed by a repair.
_KNOWN_AUTOCLEAR = AUTOCLEAR_BITMAPS | AUTOCLEAR_RAW_DATA_FILE
_COPIED = np.uint64(COPIED)


class WritableFile:
    """A file that is being repaired.

    Args:
        fd: Its descriptor.
        path: For messages.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self.path = path

    def write(self, content: bytes, offset: int) -> None:
        """Write all of ``content``.

        Raises:
            ImageError: If that cannot be done.
        """
        try:
            write_all(self._fd, content, offset)
        except OSError as error:
            raise ImageError(
                f"{self.path} cannot be repaired: it cannot be written at {offset:#x}: "
                f"{error.strerror}; it is no worse than it was",
                path=self.path,
                offset=offset,
            ) from error

    def sync(self) -> None:
        """Return when all that was written will survive a crash."""
        os.fdatasync(self._fd)


def forget_unknown(file: WritableFile, header: Header) -> None:
    """Clear the autoclear bits that are not known, as whoever writes to a file must."""
    if header.autoclear & ~_KNOWN_AUTOCLEAR:
        file.write(struct.pack(">Q", header.autoclear & _KNOWN_AUTOCLEAR), AUTOCLEAR_AT)
        file.sync()


def repair_refcounts(file: WritableFile, survey: Survey, *, leaks_only: bool) -> None:
    """Set refcounts to what refers to the clusters.

    In their place where that can be; else all of them are written anew at the end of the file,
    and the header then names those. Where references may be missing no refcount is lowered, and
    none is written anew: entries may point past the end of the file, to where they would lie.
    One that is too large for the file's width is left.
    """
    wanted = _Wanted(survey, leaks_only=leaks_only)
    if survey.has_lost_blocks or (not leaks_only and _has_no_place(wanted, survey)):
        if survey.findings.is_complete and not leaks_only:
            _rebuild(file, wanted, survey)
        return
    for piece in wanted.pieces(wanted.num_clusters):
        if (piece.refcounts != piece.stored).any():
            offset = survey.refcounts.block_at(piece.rank) + piece.offset
            file.write(packed_counts(piece.refcounts, 1 << survey.refcounts.order), offset)
    file.sync()


def repair_flags(
    file: WritableFile,
    survey: Survey,
    places: NDArray[np.int64],
    values: NDArray[np.uint64],
    *,
    leaks_only: bool,
) -> int:
    """Write entries whose copied flag was wrong.

    Args:
        file: Where.
        survey: What is known of the file.
        places: Where the entries lie.
        values: What they are to be.
        leaks_only: Whether no flag is cleared.

    Returns:
        How many were written: none into a table that is something else as well, and no flag is
        set where references may be missing.
    """
    is_set = (values & _COPIED) != 0
    may_be = ~survey.are_shared(places)
    if leaks_only:
        may_be &= is_set
    if not survey.findings.is_complete:
        may_be &= ~is_set
    for offset, value in zip(places[may_be].tolist(), values[may_be].tolist(), strict=True):
        file.write(struct.pack(">Q", value), offset)
    return int(np.count_nonzero(may_be))


def repair_header(file: WritableFile, header: Header) -> None:
    """Take back that a file, which is clean, is dirty or corrupt."""
    if header.version >= 3 and header.incompatible & _DIRTY_OR_CORRUPT:
        file.sync()
        file.write(struct.pack(">Q", header.incompatible & ~_DIRTY_OR_CORRUPT), INCOMPATIBLE_AT)
        file.sync()


class _Piece(NamedTuple):
    """Refcounts of one block, or of a piece of one.

    Attributes:
        rank: Of the block.
        offset: Where in the block it begins, in bytes.
        first: The first cluster.
        stored: What the file says.
        refcounts: What it is to say.
    """

    rank: int
    offset: int
    first: int
    stored: NDArray[np.uint64]
    refcounts: NDArray[np.uint64]


class _Wanted:
    """What the refcounts of a file are to be."""

    def __init__(self, survey: Survey, *, leaks_only: bool) -> None:
        self._survey = survey
        self._leaks_only = leaks_only
        self._may_lower = survey.findings.is_complete
        self._is_anew = False
        self._num_in_file = survey.clusters.num
        self._counted = survey.clusters.references.values
        self.num_clusters = len(self._counted)

    def leave(self, clusters: NDArray[np.int64]) -> None:
        """Write refcounts anew: ``clusters``, where they lay, lose one reference each."""
        self._is_anew = True
        np.subtract.at(self._counted, clusters, 1)

    def pieces(self, end: int) -> Iterator[_Piece]:
        """The refcounts of clusters ``[0, end)``, in order."""
        refcounts = self._survey.refcounts
        per_block = refcounts.per_block
        for first, stored in refcounts.slices(end):
            counted = np.zeros(len(stored), np.uint64)
            some = self._counted[first : first + len(stored)]
            counted[: len(some)] = some
            found = self._of(first, stored, counted)
            for start in range(first, first + len(stored), per_block):
                at = slice(start - first, start - first + per_block)
                rank, within = divmod(start, per_block)
                offset = (within << refcounts.order) >> 3
                yield _Piece(rank, offset, start, stored[at], found[at])

    def _of(
        self, first: int, stored: NDArray[np.uint64], counted: NDArray[np.uint64]
    ) -> NDArray[np.uint64]:
        wanted: NDArray[np.uint64] = counted.copy()
        if self._leaks_only:
            wanted = np.minimum(wanted, stored)
        if not self._may_lower:
            wanted = np.maximum(wanted, stored)
        if not self._is_anew:
            # Past the end of the file nothing is looked at, so nothing is lowered.
            beyond = slice(max(0, self._num_in_file - first), None)
            wanted[beyond] = np.maximum(wanted[beyond], stored[beyond])
        too_large = wanted > np.uint64(self._survey.refcounts.most)
        wanted[too_large] = stored[too_large]
        return wanted


def _has_no_place(wanted: _Wanted, survey: Survey) -> bool:
    """Whether a refcount is to be raised whose block does not exist."""
    return any(
        piece.refcounts.any() and not survey.refcounts.block_at(piece.rank)
        for piece in wanted.pieces(wanted.num_clusters)
    )


def _rebuild(file: WritableFile, wanted: _Wanted, survey: Survey) -> None:
    """Write a refcount table with all blocks after the end of the file, then name it."""
    refcounts, size = survey.refcounts, survey.clusters.size
    wanted.leave(_own_clusters(survey))
    start = survey.clusters.num + bool(survey.clusters.references.values[-1])
    used = {piece.rank for piece in wanted.pieces(wanted.num_clusters) if piece.refcounts.any()}
    table_clusters = num_blocks = 0
    while True:
        end = start + table_clusters + num_blocks
        used |= set(range(start // refcounts.per_block, (end - 1) // refcounts.per_block + 1))
        needed = -(-(max(used) + 1) * 8 // size), len(used)
        if needed == (table_clusters, num_blocks):
            break
        table_clusters, num_blocks = needed
    if table_clusters * size > MAX_REFCOUNT_TABLE_BYTES:
        raise ImageError(
            f"{file.path} cannot be repaired: its refcounts need a table of "
            f"{table_clusters * size} bytes, and {MAX_REFCOUNT_TABLE_BYTES} are possible; write it "
            "anew with `qemu-img convert`",
            path=file.path,
        )
    places = {
        rank: (start + table_clusters + number) * size for number, rank in enumerate(sorted(used))
    }
    for piece in wanted.pieces(end):
        if piece.rank in places:
            own = slice(max(0, start - piece.first), max(0, end - piece.first))
            piece.refcounts[own] = 1
            content = packed_counts(piece.refcounts, 1 << refcounts.order)
            file.write(content, places[piece.rank] + piece.offset)
    table = np.zeros(table_clusters * size // 8, np.uint64)
    table[list(places)] = list(places.values())
    file.write(table.astype(">u8").tobytes(), start * size)
    file.sync()
    file.write(struct.pack(">QI", start * size, table_clusters), REFCOUNT_TABLE_AT)
    file.sync()


def _own_clusters(survey: Survey) -> NDArray[np.int64]:
    """The clusters of the refcount table and of its blocks, as the survey counted them."""
    refcounts, size = survey.refcounts, survey.clusters.size
    first = refcounts.table_offset // size
    end = min(first + refcounts.table_bytes // size, len(survey.clusters.marks))
    if survey.clusters.is_past_end(refcounts.table_offset, refcounts.table_bytes):
        end = first  # it was not counted
    ranks = np.flatnonzero(refcounts.table).tolist()
    blocks = [refcounts.block_at(rank) // size for rank in ranks if refcounts.block_at(rank)]
    return np.array([*range(first, end), *blocks], np.int64)
