"""The entries of L2 tables, many tables at once, and what is wrong with them by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hatchway.disk.checking.findings import FindingKind
from hatchway.disk.fields import COPIED
from hatchway.disk.header import Header
from hatchway.disk.words import OFFSET_MASK, VALUE_MASK

_OFFSET = np.uint64(OFFSET_MASK)
_VALUE = np.uint64(VALUE_MASK)
_COMPRESSED = np.uint64(1 << 62)
_COPIED = np.uint64(COPIED)
_ZERO = np.uint64(1)
_RESERVED = np.uint64(0x3F000000000001FE)
_SUBCLUSTERS = np.uint64(32)
_LOW_HALF = np.uint64((1 << 32) - 1)
_SECTOR = 512


class Problem(NamedTuple):
    """Entries that are wrong in one way.

    Attributes:
        kind: In which.
        what: A sentence.
        at: Which entries.
        hides_references: Whether they may refer to clusters that cannot be counted.
    """

    kind: FindingKind
    what: str
    at: NDArray[np.bool_]
    hides_references: bool = False


class Entries(NamedTuple):
    """The entries of L2 tables that are not 0.

    Attributes:
        header: Of their file.
        tables: Where each of the tables lies.
        guests: The first guest cluster that each of the tables describes; None if that is not
            known.
        table: The number of the table that an entry lies in.
        rank: The number of the entry in it.
        values: The entries.
        bitmaps: Of their subclusters; zeros where there are none.
        hosts: What they point to, if they are not compressed.
        is_compressed: Whether they are.
        is_placed: Whether they are not, and have a place in the file, or in the data file.
        misaligned: Of those with a place, whether it is not at a cluster.
    """

    header: Header
    tables: NDArray[np.int64]
    guests: NDArray[np.int64] | None
    table: NDArray[np.int64]
    rank: NDArray[np.int64]
    values: NDArray[np.uint64]
    bitmaps: NDArray[np.uint64]
    hosts: NDArray[np.int64]
    is_compressed: NDArray[np.bool_]
    is_placed: NDArray[np.bool_]
    misaligned: NDArray[np.bool_]

    @classmethod
    def found_in(
        cls,
        raw: bytes,
        tables: NDArray[np.int64],
        guests: NDArray[np.int64] | None,
        header: Header,
    ) -> Entries:
        """The entries of some tables.

        Args:
            raw: The tables, one after the other.
            tables: Where each of them lies.
            guests: The first guest cluster that each of them describes, if known.
            header: Of their file.
        """
        words = np.frombuffer(raw, ">u8")
        if header.has_subclusters:
            pairs = words.reshape(-1, 2)
            at = np.flatnonzero((pairs != 0).any(1))
            values, bitmaps = pairs[at].astype(np.uint64).T
        else:
            at = np.flatnonzero(words)
            values = words[at].astype(np.uint64)
            bitmaps = np.zeros(len(at), np.uint64)
        per_table = header.cluster_size // header.l2_entry_bytes
        is_compressed = (values & _COMPRESSED) != 0
        hosts = (values & _OFFSET).astype(np.int64)
        is_placed = ~is_compressed & (hosts != 0)
        if header.has_data_file:  # where 0 is a place like any other
            is_placed = ~is_compressed & ((hosts != 0) | ((values & _COPIED) != 0))
        return cls(
            header=header,
            tables=tables,
            guests=guests,
            table=at >> (per_table.bit_length() - 1),
            rank=at & (per_table - 1),
            values=values,
            bitmaps=bitmaps,
            hosts=hosts,
            is_compressed=is_compressed,
            is_placed=is_placed,
            misaligned=is_placed & ((hosts & (header.cluster_size - 1)) != 0),
        )

    def places(self, at: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Where in the file some of them lie."""
        return self.tables[self.table[at]] + self.rank[at] * self.header.l2_entry_bytes

    def guest_offsets(self, at: NDArray[np.bool_]) -> NDArray[np.int64] | None:
        """Where on the disk the clusters lie that some of them describe, if known."""
        if self.guests is None:
            return None
        return (self.guests[self.table[at]] + self.rank[at]) * self.header.cluster_size

    @property
    def num_fragmented(self) -> int:
        """How many do not follow the one before in their table, or are compressed."""
        hosts, table = self.hosts[self.is_placed], self.table[self.is_placed]
        follows = hosts[1:] == hosts[:-1] + self.header.cluster_size
        jumps = ~follows & (table[1:] == table[:-1])
        return int(np.count_nonzero(jumps)) + int(np.count_nonzero(self.is_compressed))

    def packed_extents(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each compressed cluster begins, and its bytes at most; of others, anything."""
        offset_bits = np.uint64(62 - (self.header.cluster_bits - 8))
        described = self.values & _VALUE
        starts = (described & ((np.uint64(1) << offset_bits) - np.uint64(1))).astype(np.int64)
        sectors = (described >> offset_bits).astype(np.int64) + 1
        return starts, sectors * _SECTOR - starts % _SECTOR

    def problems(self) -> Iterator[Problem]:
        """What is wrong with some of them, whatever the rest of the file holds."""
        plain = ~self.is_compressed
        reserved = _RESERVED if self.header.version >= 3 else _RESERVED | _ZERO
        if self.header.has_subclusters:
            reserved = _RESERVED | _ZERO
        yield Problem(
            "reserved bits",
            "an L2 entry has bits that must be 0",
            plain & ((self.values & reserved) != 0),
        )
        yield Problem(
            "misaligned",
            "an L2 entry does not point to the beginning of a cluster",
            self.misaligned,
            hides_references=True,
        )
        if self.is_compressed.any():
            yield Problem(
                "copied flag",
                "the L2 entry of a compressed cluster has the copied flag",
                self.is_compressed & ((self.values & _COPIED) != 0),
            )
            yield Problem(
                "contradiction",
                "the L2 entry of a compressed cluster has subclusters",
                self.is_compressed & (self.bitmaps != 0),
            )
            if self.header.has_data_file:
                said = "an L2 entry is compressed, beside an external data file"
                yield Problem("contradiction", said, self.is_compressed)
        if self.header.has_subclusters:
            is_data, is_zero = self.bitmaps & _LOW_HALF, self.bitmaps >> _SUBCLUSTERS
            yield Problem(
                "contradiction",
                "an L2 entry has a subcluster that is both data and zeros",
                plain & ((is_data & is_zero) != 0),
            )
            yield Problem(
                "contradiction",
                "an L2 entry has subclusters with data, and points nowhere",
                plain & ~self.is_placed & (is_data != 0),
            )
