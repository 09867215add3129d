"""What a check finds, and what it says in the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

FindingKind = Literal[
    "leak",
    "refcount too low",
    "copied flag",
    "past the end",
    "misaligned",
    "overlap",
    "reserved bits",
    "contradiction",
]


class Finding(NamedTuple):
    """One thing that is wrong with a file.

    Attributes:
        kind: ``"leak"``: a refcount is higher than what refers to the cluster, which wastes
            space and harms nothing. All others are corruptions: ``"refcount too low"``;
            ``"copied flag"``: it contradicts the refcount; ``"past the end"`` and
            ``"misaligned"``: an entry points there; ``"overlap"``: something else refers to
            a cluster of metadata; ``"reserved bits"``: an entry has some set;
            ``"contradiction"``: an entry is two things at once.
        what: A sentence.
        offset: Where in the file the entry lies that is wrong, if it is one.
        host_offset: The cluster that is wrong, or that the entry points to.
        guest_offset: The place on the disk, where it is known.
    """

    kind: FindingKind
    what: str
    offset: int | None = None
    host_offset: int | None = None
    guest_offset: int | None = None


class Findings:
    """Counts all findings, and keeps the first ones.

    Args:
        most: How many to keep.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.kept: list[Finding] = []
        self.num_of: Counter[FindingKind] = Counter()
        # Whether every table that refers to clusters could be followed.
        self.is_complete = True

    def note(self, finding: Finding, *, hides_references: bool = False) -> None:
        """Count one finding.

        Args:
            finding: What it is.
            hides_references: Whether something may refer to clusters that was not counted.
        """
        self.num_of[finding.kind] += 1
        self.is_complete = self.is_complete and not hides_references
        if len(self.kept) < self._most:
            self.kept.append(finding)

    def note_all(
        self,
        kind: FindingKind,
        what: str,
        *,
        offsets: NDArray[np.int64] | None = None,
        hosts: NDArray[np.int64] | None = None,
        guests: NDArray[np.int64] | None = None,
        hides_references: bool = False,
    ) -> None:
        """Count as many findings of one kind as the arrays are long, all of that length."""
        places = [offsets, hosts, guests]
        count = max(len(one) for one in places if one is not None)
        if not count:
            return
        self.num_of[kind] += count
        self.is_complete = self.is_complete and not hides_references
        for rank in range(min(count, self._most - len(self.kept))):
            at = [None if one is None else int(one[rank]) for one in places]
            self.kept.append(Finding(kind, what, *at))


@dataclass(frozen=True)
class Report:
    """What a check says of a file.

    Attributes:
        path: The file.
        findings: The first of them; all are counted below.
        leaks: Clusters whose refcount is higher than what refers to them.
        corruptions: All other findings.
        leaks_fixed: How many of them a repair has put right.
        corruptions_fixed: How many of those it has.
        total_clusters: Of the disk.
        allocated_clusters: Of them, those with a place in the file.
        compressed_clusters: Of them, those that are compressed.
        fragmented_clusters: Of them, those that do not follow the one before.
        image_end_offset: Where the last cluster that is used ends.
        is_dirty: Whether the header says that refcounts may be wrong.
        is_marked_corrupt: Whether the header says that the tables are.
    """

    path: Path
    findings: tuple[Finding, ...]
    leaks: int
    corruptions: int
    leaks_fixed: int
    corruptions_fixed: int
    total_clusters: int
    allocated_clusters: int
    compressed_clusters: int
    fragmented_clusters: int
    image_end_offset: int
    is_dirty: bool
    is_marked_corrupt: bool

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found, or all of it was repaired."""
        return not self.leaks and not self.corruptions
