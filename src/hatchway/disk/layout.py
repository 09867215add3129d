"""What must be known of a file to read its tables."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

from hatchway.disk.header import Header


class Layout(NamedTuple):
    """What of a qcow2 file's header says how its tables are read.

    Attributes:
        cluster_bits: Binary logarithm of the cluster size.
        l1_offset: Where the L1 table lies.
        l1_size: Its entries.
        has_subclusters: Whether L2 entries have 16 bytes.
        has_data_file: Whether clusters lie in another file.
        has_zeros: Whether there are zero clusters, as from version 3 on.
    """

    cluster_bits: int
    l1_offset: int
    l1_size: int
    has_subclusters: bool
    has_data_file: bool
    has_zeros: bool

    @property
    def table_bytes(self) -> int:
        """Bytes of the disk that an L2 table says of where they lie."""
        return (1 << 2 * self.cluster_bits) // (16 if self.has_subclusters else 8)


class Known(NamedTuple):
    """What is known of a file that need not be read to be opened.

    Attributes:
        format: What it is.
        size: The guest's disk, in bytes.
        layout: Of a qcow2 file; None of a raw one.
    """

    format: Literal["qcow2", "raw"]
    size: int
    layout: Layout | None


# The files of a chain mostly have the same.
_shared = functools.lru_cache(maxsize=16)(Layout)


def layout_of(header: Header) -> Layout:
    """What a header says of that."""
    return _shared(
        header.cluster_bits,
        header.l1_offset,
        header.l1_size,
        header.has_subclusters,
        header.has_data_file,
        header.version >= 3,
    )
