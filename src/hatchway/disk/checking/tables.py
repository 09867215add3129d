"""What the L1 and L2 tables of a file refer to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hatchway.disk.checking.clusters import IS_DATA, IS_ONE, IS_TABLE, Clusters
from hatchway.disk.checking.entries import Entries
from hatchway.disk.checking.findings import Findings
from hatchway.disk.checking.regions import Region
from hatchway.disk.fields import COPIED
from hatchway.disk.image import Image
from hatchway.disk.words import OFFSET_MASK

# Told of entries whose copied flag contradicts the refcount: where each one lies, and what it
# is to be.
OnFlags = Callable[[NDArray[np.int64], NDArray[np.uint64]], None]

_OFFSET = np.uint64(OFFSET_MASK)
_COPIED = np.uint64(COPIED)
_L1_RESERVED = np.uint64(0x7F000000000001FF)
# Tables are looked at so many bytes at a time: what they take stays in the processor's cache.
_PIECE_BYTES = 1 << 18


class _L1Piece(NamedTuple):
    """Entries of an L1 table that point to tables which can be read.

    Attributes:
        places: Where the entries lie.
        values: The entries.
        tables: Where the L2 tables lie.
        times: How many L1 tables the entries belong to.
    """

    places: NDArray[np.int64]
    values: NDArray[np.uint64]
    tables: NDArray[np.int64]
    times: int


class Tables:
    """Follows L1 tables to the clusters of the disk, each L2 table once.

    An L2 table that many snapshots share is read once, and counts as often as it is named.

    Args:
        image: The file.
        clusters: Where references are counted.
        findings: Told of what is wrong.
        on_flags: Told of copied flags that are, if given.

    Attributes:
        num_allocated: Clusters of the active disk that have a place.
        num_compressed: Of them, those that are compressed.
        num_fragmented: Of them, those that do not follow the one before in their table.
    """

    def __init__(
        self, image: Image, clusters: Clusters, findings: Findings, on_flags: OnFlags | None
    ) -> None:
        assert image.header is not None
        self._image = image
        self._header = image.header
        self._clusters = clusters
        self._findings = findings
        self._on_flags = on_flags
        self.num_allocated = 0
        self.num_compressed = 0
        self.num_fragmented = 0

    def count_l1(self, active: Region, others: list[Region]) -> int:
        """Count the references of L1 tables to L2 tables.

        Args:
            active: The active L1 table.
            others: Those of snapshots, cut so that none lies over another.

        Returns:
            How many L2 tables there are to be followed.
        """
        counts = self._clusters.l1_entries
        for region in (active, *others):
            for piece in self._l1_pieces(region, is_told=True):
                times = np.full(len(piece.tables), piece.times, np.int64)
                ranks = self._clusters.ranks(piece.tables)
                self._clusters.refer(ranks, times, IS_TABLE)
                counts.add(ranks, piece.times)
                if region is active:
                    self._compare_l1_flags(piece, active)
        return int(np.count_nonzero(counts.values))

    def follow(self, active: Region, others: list[Region]) -> Iterator[int]:
        """Count the references of L2 tables to clusters, after :meth:`count_l1`.

        Yields:
            How many more tables were followed.
        """
        counts = self._clusters.l1_entries
        per_batch = max(1, _PIECE_BYTES // self._clusters.size)
        for region in (active, *others):
            for piece in self._l1_pieces(region, is_told=False):
                is_active = region is active
                # In the order of the disk; a table that is named twice, at the first place.
                distinct, at = np.unique(piece.tables, return_index=True)
                at = np.sort(at[counts.values[self._clusters.ranks(distinct)] != 0])
                for start in range(0, len(at), per_batch):
                    some = at[start : start + per_batch]
                    tables, ranks = piece.tables[some], self._clusters.ranks(piece.tables[some])
                    times = counts.values[ranks].astype(np.int64)
                    counts.values[ranks] = 0  # followed
                    # A snapshot's table may have been cut where another one begins.
                    guests = self._guests_of(piece, active)[some] if is_active else None
                    self._follow(tables, guests, times)
                    yield len(some)

    def _l1_pieces(self, region: Region, *, is_told: bool) -> Iterator[_L1Piece]:
        size = self._clusters.size
        for start in range(region.start, region.end, _PIECE_BYTES):
            raw = self._image.file.read(min(_PIECE_BYTES, region.end - start), start)
            all_entries = np.frombuffer(raw[: len(raw) & ~7], ">u8").astype(np.uint64)
            at = np.flatnonzero(all_entries)
            values = all_entries[at]
            places = at.astype(np.int64) * 8 + start
            tables = (values & _OFFSET).astype(np.int64)
            misaligned = tables % size != 0
            beyond = tables > self._clusters.file_bytes
            if is_told:
                self._tell_l1(places, values, tables, misaligned, beyond & ~misaligned)
            sound = (tables != 0) & ~misaligned & ~beyond
            yield _L1Piece(places[sound], values[sound], tables[sound], region.times)

    def _tell_l1(
        self,
        places: NDArray[np.int64],
        values: NDArray[np.uint64],
        tables: NDArray[np.int64],
        misaligned: NDArray[np.bool_],
        beyond: NDArray[np.bool_],
    ) -> None:
        note_all = self._findings.note_all
        reserved = (values & _L1_RESERVED) != 0
        said = "an L1 entry has bits that must be 0"
        note_all("reserved bits", said, offsets=places[reserved], hosts=tables[reserved])
        nowhere = tables == 0
        said = "an L1 entry is not 0, and points nowhere"
        note_all("contradiction", said, offsets=places[nowhere], hides_references=True)
        note_all(
            "misaligned",
            "an L1 entry does not point to the beginning of a cluster",
            offsets=places[misaligned],
            hosts=tables[misaligned],
            hides_references=True,
        )
        note_all(
            "past the end",
            "an L1 entry points past the end of the file",
            offsets=places[beyond],
            hosts=tables[beyond],
            hides_references=True,
        )

    def _guests_of(self, piece: _L1Piece, active: Region) -> NDArray[np.int64]:
        """The first guest cluster of each L2 table that the active L1 table names."""
        per_table = self._clusters.size // self._header.l2_entry_bytes
        return (piece.places - active.start) // 8 * per_table

    def _follow(
        self,
        tables: NDArray[np.int64],
        guests: NDArray[np.int64] | None,
        times: NDArray[np.int64],
    ) -> None:
        """Count the references of some L2 tables, of the active disk if ``guests`` are given."""
        is_active = guests is not None
        size = self._clusters.size
        raw = b"".join(
            self._image.file.read(size, offset).ljust(size, b"\0") for offset in tables.tolist()
        )
        entries = Entries.found_in(raw, tables, guests, self._header)
        self._tell(entries)
        packed, plain = entries.is_compressed, entries.is_placed
        entry_times = times[entries.table]
        if not self._header.has_data_file:
            self._refer_plain(entries, entry_times)
        if is_active:
            self._compare_l2_flags(entries)
        self._refer_packed(entries, entry_times)
        if is_active:
            self.num_allocated += int(np.count_nonzero(plain | packed))
            self.num_compressed += int(np.count_nonzero(packed))
            self.num_fragmented += entries.num_fragmented

    def _tell(self, entries: Entries) -> None:
        for problem in entries.problems():
            at = problem.at
            if at.any():
                self._findings.note_all(
                    problem.kind,
                    problem.what,
                    offsets=entries.places(at),
                    hosts=entries.hosts[at],
                    guests=entries.guest_offsets(at),
                    hides_references=problem.hides_references,
                )

    def _refer_plain(self, entries: Entries, times: NDArray[np.int64]) -> None:
        beyond = entries.is_placed & (entries.hosts > self._clusters.file_bytes)
        self._tell_beyond(entries, beyond)
        at = entries.is_placed & ~entries.misaligned & ~beyond
        self._clusters.refer(self._clusters.ranks(entries.hosts[at]), times[at], IS_DATA)

    def _refer_packed(self, entries: Entries, times: NDArray[np.int64]) -> None:
        if not entries.is_compressed.any():
            return
        starts, sizes = entries.packed_extents()
        beyond = starts + sizes - self._clusters.file_bytes > self._clusters.size
        self._tell_beyond(entries, entries.is_compressed & beyond)
        at = entries.is_compressed & ~beyond
        first = self._clusters.ranks(starts[at])
        last = self._clusters.ranks(starts[at] + sizes[at] - 1)
        for step in range(3):  # what it may take, and where it begins, in whole clusters
            reaches = first + step <= last
            self._clusters.refer(first[reaches] + step, times[at][reaches], IS_DATA)

    def _tell_beyond(self, entries: Entries, beyond: NDArray[np.bool_]) -> None:
        self._findings.note_all(
            "past the end",
            "an L2 entry points past the end of the file",
            offsets=entries.places(beyond),
            hosts=entries.hosts[beyond],
            guests=entries.guest_offsets(beyond),
            hides_references=True,
        )

    def _compare_l1_flags(self, piece: _L1Piece, region: Region) -> None:
        wrong = self._are_flags_wrong(piece.values, piece.tables)
        if wrong.any():
            self._tell_flags(
                "an L1 entry's copied flag contradicts the refcount of its table",
                piece.places[wrong],
                piece.values[wrong],
                piece.tables[wrong],
                self._guests_of(piece, region)[wrong] * self._clusters.size,
            )

    def _compare_l2_flags(self, entries: Entries) -> None:
        at = entries.is_placed & ~entries.misaligned
        if self._header.has_data_file:  # which has no refcounts: each counts as 1
            wrong = at & ((entries.values & _COPIED) == 0)
        else:
            at &= entries.hosts <= self._clusters.file_bytes
            wrong = np.zeros_like(at)
            wrong[at] = self._are_flags_wrong(entries.values[at], entries.hosts[at])
        if wrong.any():
            self._tell_flags(
                "an L2 entry's copied flag contradicts the refcount of its cluster",
                entries.places(wrong),
                entries.values[wrong],
                entries.hosts[wrong],
                entries.guest_offsets(wrong),
            )

    def _are_flags_wrong(
        self, values: NDArray[np.uint64], hosts: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        is_one = (self._clusters.marks[self._clusters.ranks(hosts)] & np.uint8(IS_ONE)) != 0
        wrong: NDArray[np.bool_] = is_one != ((values & _COPIED) != 0)
        return wrong

    def _tell_flags(
        self,
        what: str,
        places: NDArray[np.int64],
        values: NDArray[np.uint64],
        hosts: NDArray[np.int64],
        guests: NDArray[np.int64] | None,
    ) -> None:
        self._findings.note_all("copied flag", what, offsets=places, hosts=hosts, guests=guests)
        if self._on_flags is not None:
            self._on_flags(places, values ^ _COPIED)
