"""What refers to each host cluster of a file, as it is counted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hatchway.base.units import format_bytes
from hatchway.disk.checking.counts import Counts
from hatchway.disk.checking.findings import Finding, Findings
from hatchway.disk.errors import ImageError
from hatchway.disk.image import Image

# Marks of a cluster: its refcount in the file is 1; what it holds.
IS_ONE, IS_TABLE, IS_FIXED, IS_REFCOUNT, IS_DATA = (1 << bit for bit in range(5))


class Clusters:
    """The host clusters of a file: references, L1 entries and marks of each one.

    Takes 3 bytes a cluster, in pages that something refers to; more where a cluster has more
    than 255 references, in which case all counts are widened.

    Args:
        image: The file, qcow2.
        findings: Told of what points to no cluster.
        most_bytes: What it may take.

    Attributes:
        num: How many lie in the file, the last one maybe in part. One more is counted: an
            entry may point to where the file ends.
        references: How often each is referred to.
        l1_entries: How many entries of L1 tables name it as an L2 table.
        marks: What else is known of it.

    Raises:
        ImageError: If it would take more.
    """

    def __init__(self, image: Image, findings: Findings, most_bytes: int) -> None:
        assert image.header is not None
        self._path = image.path
        self._findings = findings
        self._most_bytes = most_bytes
        self.size = image.header.cluster_size
        self.file_bytes = image.file.file_bytes
        self.num = -(-self.file_bytes // self.size)
        self._needs(3)
        self.references = Counts(self.num + 1, lambda width: self._needs(2 + width))
        self.l1_entries = Counts(
            self.num + 1, lambda width: self._needs(1 + width + self.references.values.itemsize)
        )
        self.marks: NDArray[np.uint8] = np.zeros(self.num + 1, np.uint8)

    def ranks(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """The clusters that offsets lie in."""
        return offsets >> (self.size.bit_length() - 1)

    def is_past_end(self, offset: int, num_bytes: int) -> bool:
        """Whether a region ends a cluster or more after the file, as QEMU counts it."""
        return offset + num_bytes - self.file_bytes > self.size

    def refer(self, clusters: NDArray[np.int64], times: NDArray[np.int64], mark: int) -> None:
        """Count references to clusters, each as often as ``times`` says, and mark them."""
        if not len(clusters):
            return
        if times.min() == times.max():
            self.references.add(clusters, int(times[0]))
        else:
            for number in np.unique(times).tolist():
                self.references.add(clusters[times == number], number)
        self.marks[clusters] |= np.uint8(mark)

    def refer_to_table(self, what: str, offset: int, num_bytes: int, mark: int = IS_FIXED) -> bool:
        """Count a reference to each cluster of a table; what is wrong with its place is noted.

        Returns:
            Whether it lies in the file.
        """
        if not num_bytes:
            return True
        if offset % self.size:
            said = f"{what} does not begin at a cluster"
            self._findings.note(
                Finding("misaligned", said, host_offset=offset), hides_references=True
            )
            return False
        if self.is_past_end(offset, num_bytes):
            said = f"{what} lies past the end of the file"
            self._findings.note(
                Finding("past the end", said, host_offset=offset), hides_references=True
            )
            return False
        first, end = offset // self.size, -(-(offset + num_bytes) // self.size)
        self.references.add_range(first, end)
        self.marks[first:end] |= np.uint8(mark)
        return True

    def _needs(self, bytes_a_cluster: int) -> None:
        needed = (self.num + 1) * bytes_a_cluster
        if needed > self._most_bytes:
            raise ImageError(
                f"{self._path} has {self.num} clusters: to count what refers to them takes "
                f"{format_bytes(needed)}, and {format_bytes(self._most_bytes)} are allowed; "
                "allow more (most_bytes=)",
                path=self._path,
            )
