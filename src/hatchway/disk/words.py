"""The words that say where pieces of the disk lie.

A *granule* is the smallest piece that any file of a chain allocates: a cluster, or a
subcluster. A *word* says where a granule lies in the file that holds it: its two highest
bits are a ``Kind``; the others are the host offset of the granule (data) or what the
L2 entry says of a compressed cluster.
"""

from __future__ import annotations

from enum import IntEnum

KIND_SHIFT = 62
VALUE_MASK = (1 << KIND_SHIFT) - 1
# Of an entry of an L1 or L2 table: where a table or a cluster begins.
OFFSET_MASK = 0x00FFFFFFFFFFFE00


class Kind(IntEnum):
    """What a file says of a granule."""

    HOLE = 0  # nothing: what lies below it in the chain decides
    DATA = 1
    ZERO = 2  # reads as zeros, whatever lies below
    COMPRESSED = 3
