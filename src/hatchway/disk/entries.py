"""Entries of L2 tables, and the words that they become."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hatchway.disk.fields import COPIED
from hatchway.disk.words import KIND_SHIFT, OFFSET_MASK, VALUE_MASK, Kind

_OFFSET = np.uint64(OFFSET_MASK)
_COMPRESSED = np.uint64(1 << 62)
_COPIED = np.uint64(COPIED)
_ZERO = np.uint64(1)
_SUBCLUSTERS = 32


DATA, ZERO, COMPRESSED = (np.uint64(kind << KIND_SHIFT) for kind in list(Kind)[1:])


class EntryError(ValueError):
    """An entry that contradicts the format.

    Attributes:
        rank: Which of the entries it is.
    """

    def __init__(self, rank: int, said: str) -> None:
        super().__init__(said)
        self.rank = rank


def words_of(
    table: NDArray[np.uint64], cluster_size: int, granule: int, *, has_data_file: bool, version: int
) -> NDArray[np.uint64]:
    """The words of the clusters that entries of 8 bytes describe.

    Args:
        table: Entries, in the machine's byte order.
        cluster_size: Of the file, in bytes.
        granule: Bytes of a granule; divides it.
        has_data_file: Whether clusters lie in an external data file, where 0 is an offset
            like any other.
        version: Of the format.

    Returns:
        ``len(table) * (cluster_size // granule)`` words.

    Raises:
        EntryError: If one contradicts the format.
    """
    offset = table & _OFFSET
    compressed = (table & _COMPRESSED) != 0
    zero = ~compressed & ((table & _ZERO) != 0)
    data = ~compressed & ~zero & ((offset != 0) | (has_data_file & ((table & _COPIED) != 0)))
    _refuse(zero & (version < 3), "is a zero cluster, which version 2 does not have")
    _refuse(compressed & has_data_file, "is compressed, beside an external data file")
    misplaced = (offset & np.uint64(cluster_size - 1)) != 0
    _refuse(misplaced & ~compressed, "does not point to the beginning of a cluster")
    words = np.where(data, offset | DATA, np.uint64(0))
    words[zero] = ZERO
    words[compressed] = (table[compressed] & np.uint64(VALUE_MASK)) | COMPRESSED
    return spread(words, cluster_size // granule, granule)


def words_of_extended(
    table: NDArray[np.uint64], cluster_size: int, granule: int, *, has_data_file: bool
) -> NDArray[np.uint64]:
    """The words of the clusters that entries of 16 bytes describe.

    Args:
        table: Shape ``(clusters, 2)``: entry and bitmap, in the machine's byte order.
        cluster_size: Of the file, in bytes.
        granule: Bytes of a granule; divides a subcluster.
        has_data_file: As in :func:`words_of`.

    Returns:
        ``len(table) * (cluster_size // granule)`` words.

    Raises:
        EntryError: If one contradicts the format.
    """
    entry, bitmap = table[:, 0], table[:, 1]
    offset = entry & _OFFSET
    compressed = (entry & _COMPRESSED) != 0
    bits = np.arange(_SUBCLUSTERS, dtype=np.uint64)
    is_data = ((bitmap[:, None] >> bits) & np.uint64(1)) != 0
    is_zero = ((bitmap[:, None] >> (bits + np.uint64(_SUBCLUSTERS))) & np.uint64(1)) != 0
    _refuse((is_data & is_zero).any(1), "has a subcluster that is both data and zeros")
    _refuse(compressed & has_data_file, "is compressed, beside an external data file")
    misplaced = (offset & np.uint64(cluster_size - 1)) != 0
    _refuse(misplaced & ~compressed, "does not point to the beginning of a cluster")
    _refuse(compressed & (bitmap != 0), "is compressed and has subclusters")
    if not has_data_file:
        nowhere = (offset == 0) & ~compressed & is_data.any(1)
        _refuse(nowhere, "has subclusters with data, and points nowhere")
    starts = offset[:, None] + bits * np.uint64(cluster_size // _SUBCLUSTERS)
    words = np.where(is_data, starts | DATA, np.uint64(0))
    words[is_zero] = ZERO
    words[compressed] = ((entry[compressed] & np.uint64(VALUE_MASK)) | COMPRESSED)[:, None]
    return spread(words.ravel(), cluster_size // _SUBCLUSTERS // granule, granule)


def spread(words: NDArray[np.uint64], times: int, granule: int) -> NDArray[np.uint64]:
    """Words of granules, from those of pieces of ``times`` granules.

    Args:
        words: Of the pieces.
        times: Granules of a piece.
        granule: Bytes of a granule.
    """
    if times == 1:
        return words
    spread = np.repeat(words, times)
    is_data = (spread >> np.uint64(KIND_SHIFT)) == Kind.DATA
    steps = np.tile(np.arange(times, dtype=np.uint64) * np.uint64(granule), len(words))
    spread[is_data] += steps[is_data]
    return spread


def _refuse(wrong: NDArray[np.bool_], said: str) -> None:
    if wrong.any():
        raise EntryError(int(wrong.argmax()), said)
