"""One pass over all tables of a file: what refers to each cluster, beside its refcount."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from hatchway.disk.checking import bitmaps, snapshots
from hatchway.disk.checking.clusters import (
    IS_DATA,
    IS_FIXED,
    IS_ONE,
    IS_REFCOUNT,
    IS_TABLE,
    Clusters,
)
from hatchway.disk.checking.findings import FindingKind, Findings, Report
from hatchway.disk.checking.refcounts import TABLE_RESERVED, Refcounts
from hatchway.disk.checking.regions import Region, disjoint
from hatchway.disk.checking.tables import OnFlags, Tables
from hatchway.disk.errors import UnsupportedImageError
from hatchway.disk.image import Image

# Told how much of the work is done, and how much there is.
OnProgress = Callable[[int, int], None]


class Survey:
    """What a file says of its clusters, counted.

    Args:
        image: The file.
        most_findings: How many findings are kept.
        most_bytes: What the counts may take.
        progress: Told how it goes, if given.
        on_flags: Told of copied flags that contradict the refcounts, if given.

    Attributes:
        findings: What is wrong.
        refcounts: What the file says.
        clusters: What refers to each of them.
        has_lost_blocks: Whether refcounts are lost, or lie in a cluster that is something else
            as well: they cannot be repaired in their place.

    Raises:
        ImageError: If the file cannot be checked.
    """

    def __init__(
        self,
        image: Image,
        *,
        most_findings: int,
        most_bytes: int,
        progress: OnProgress | None = None,
        on_flags: OnFlags | None = None,
    ) -> None:
        if image.header is None:
            raise UnsupportedImageError(
                f"{image.path} is a raw file, which has nothing that could be checked",
                path=image.path,
            )
        self._image = image
        self._header = image.header
        self.findings = Findings(most_findings)
        self.refcounts = Refcounts(image)
        self.clusters = Clusters(image, self.findings, most_bytes)
        self._tables = Tables(image, self.clusters, self.findings, on_flags)
        self.has_lost_blocks = False
        self._num_used = 0
        self._run(progress or _nobody)

    def report(self) -> Report:
        """What it found."""
        num_of = self.findings.num_of
        leaks = num_of["leak"]
        header = self._header
        return Report(
            path=self._image.path,
            findings=tuple(self.findings.kept),
            leaks=leaks,
            corruptions=num_of.total() - leaks,
            leaks_fixed=0,
            corruptions_fixed=0,
            total_clusters=-(-header.size // header.cluster_size),
            allocated_clusters=self._tables.num_allocated,
            compressed_clusters=self._tables.num_compressed,
            fragmented_clusters=self._tables.num_fragmented,
            image_end_offset=self._num_used * header.cluster_size,
            is_dirty=header.is_dirty,
            is_marked_corrupt=header.is_marked_corrupt,
        )

    def compared(self) -> Iterator[tuple[int, NDArray[np.uint64], NDArray[np.uint64]]]:
        """Refcounts beside references, some clusters at a time, in order.

        Yields:
            The first cluster, the refcounts from it on, and the references.
        """
        counted = self.clusters.references.values
        for first, stored in self.refcounts.slices(len(counted)):
            some = counted[first : first + len(stored)].astype(np.uint64)
            yield first, stored[: len(some)], some

    def are_shared(self, offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the entries at some offsets lie in a table that is something else as well."""
        ranks = offsets // self.clusters.size
        marks = self.clusters.marks[ranks]
        is_fixed = marks & np.uint8(IS_FIXED | IS_REFCOUNT) != 0
        is_shared = is_fixed & (self.clusters.references.values[ranks] > 1)
        shared: NDArray[np.bool_] = is_shared | _is_table_and_data(marks)
        return shared

    def _run(self, progress: OnProgress) -> None:
        header, clusters = self._header, self.clusters
        clusters.refer_to_table("the header", 0, header.cluster_size)
        self._note_refcount_of_one()
        self._refer_refcounts()
        l1_bytes = header.l1_size * 8
        clusters.refer_to_table("the L1 table", header.l1_offset, l1_bytes)
        active = Region(header.l1_offset, header.l1_offset + l1_bytes, 1)
        others = disjoint(snapshots.refer(self._image, clusters, self.findings))
        bitmaps.refer(self._image, clusters, self.findings)
        total, done = self._tables.count_l1(active, others), 0
        for more in self._tables.follow(active, others):
            done += more
            progress(done, total)
        self._compare()

    def _note_refcount_of_one(self) -> None:
        marks = self.clusters.marks
        for first, stored in self.refcounts.slices(len(marks)):
            some = marks[first : first + len(stored)]
            some[stored[: len(some)] == 1] |= np.uint8(IS_ONE)

    def _refer_refcounts(self) -> None:
        """Count the references of the refcount table, and of the header to it."""
        refcounts, clusters, findings = self.refcounts, self.clusters, self.findings
        offset, num_bytes = refcounts.table_offset, refcounts.table_bytes
        if not clusters.refer_to_table("the refcount table", offset, num_bytes, IS_REFCOUNT):
            self.has_lost_blocks = True
        table = refcounts.table
        at = np.flatnonzero(table)
        places = at.astype(np.int64) * 8 + offset
        reserved = (table[at] & np.uint64(TABLE_RESERVED)) != 0
        blocks = table[at] & ~np.uint64(TABLE_RESERVED)
        # Offsets here have 64 bits; what is larger than any file is as far away as can be.
        hosts = np.minimum(blocks, np.uint64(1 << 62)).astype(np.int64)
        misaligned = hosts % clusters.size != 0
        beyond = (hosts > clusters.file_bytes - 1) & ~misaligned
        problems: tuple[tuple[FindingKind, str, NDArray[np.bool_]], ...] = (
            ("reserved bits", "has bits that must be 0", reserved),
            ("misaligned", "does not point to the beginning of a cluster", misaligned),
            ("past the end", "points past the end of the file", beyond),
        )
        for kind, what, wrong in problems:
            if wrong.any():
                self.has_lost_blocks = True
                findings.note_all(
                    kind,
                    f"an entry of the refcount table {what}",
                    offsets=places[wrong],
                    hosts=hosts[wrong],
                )
        found = hosts[~misaligned & ~beyond & (hosts != 0)] // clusters.size
        clusters.refer(found, np.ones(len(found), np.int64), IS_REFCOUNT)

    def _compare(self) -> None:
        clusters, findings, size = self.clusters, self.findings, self.clusters.size
        for first, stored, counted in self.compared():
            marks = clusters.marks[first : first + len(stored)]
            # A cluster of metadata that something else refers to, an L2 table shared by
            # snapshots excepted.
            is_shared = (marks & np.uint8(IS_FIXED | IS_REFCOUNT) != 0) & (counted > 1)
            is_shared |= _is_table_and_data(marks)
            is_lost = is_shared & (marks & np.uint8(IS_REFCOUNT) != 0)
            self.has_lost_blocks = self.has_lost_blocks or bool(is_lost.any())
            # What was written over a table is not what the table referred to.
            over_tables = is_shared & (marks & np.uint8(IS_FIXED | IS_TABLE) != 0)
            too_low = (stored < counted) & ~is_shared
            leaks = (stored > counted) & ~is_shared
            leaks[clusters.num - first :] = False  # past the end of the file, as for QEMU
            found: tuple[tuple[FindingKind, str, NDArray[np.bool_]], ...] = (
                ("overlap", "a cluster of metadata is referred to by something else", is_shared),
                ("refcount too low", "a refcount is lower than what refers to it", too_low),
                ("leak", "a refcount is higher than what refers to it", leaks),
            )
            for kind, what, wrong in found:
                if wrong.any():
                    hides = kind == "overlap" and bool(over_tables.any())
                    hosts = (np.flatnonzero(wrong).astype(np.int64) + first) * size
                    findings.note_all(kind, what, hosts=hosts, hides_references=hides)
            used = np.flatnonzero((stored != 0) | (counted != 0))
            used = used[used + first < clusters.num]
            if len(used):
                self._num_used = first + int(used[-1]) + 1


def _is_table_and_data(marks: NDArray[np.uint8]) -> NDArray[np.bool_]:
    both: NDArray[np.bool_] = (marks & np.uint8(IS_TABLE | IS_DATA)) == IS_TABLE | IS_DATA
    return both


def _nobody(done: int, total: int) -> None:
    """Told how it goes, and does nothing."""
