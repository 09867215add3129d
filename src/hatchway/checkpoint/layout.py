"""What a step holds, and where: the disk of a chain with memory on it.

Pages of memory lie in clusters of 4 KiB, in the order of their addresses:

- cluster 0: magic, version, where the description lies, its CRC-32, and that of all this;
- the spans: the bytes of all regions, each span from a cluster on at which it has the offset in
  its page that it has in memory; around them zeros;
- a CRC-32 of each cluster of the spans, 4 bytes each, little-endian;
- the description, in JSON, and the bytes that the user gave, one behind the other.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hatchway.checkpoint.clusters import CLUSTER
from hatchway.checkpoint.errors import DamagedCheckpointError
from hatchway.disk import Chain
from hatchway.memory.ranges import Ranges, expanded, intersection, union
from hatchway.memory.regions import Region

CRC_BYTES = 4
CRCS_PER_CLUSTER = CLUSTER // CRC_BYTES
_HEAD = struct.Struct("<8sIIQQQI")
_CRC = struct.Struct("<I")
_MAGIC = b"HWCHECKP"
_VERSION = 1
# A description of more is damage rather than a million regions.
_MOST_BYTES = 1 << 30


class Place(NamedTuple):
    """Where the bytes of a region lie.

    Attributes:
        offset: On the disk.
        num_bytes: How many they are.
    """

    offset: int
    num_bytes: int


class Description(NamedTuple):
    """What a step says of itself.

    Attributes:
        step: Its number.
        regions: Where each lies, by name.
        num_clusters: How many the spans take, from the second of the disk on.
        extra: What the user gave.
    """

    step: int
    regions: dict[str, Place]
    num_clusters: int
    extra: bytes


def crcs_at(num_clusters: int) -> int:
    """The cluster in which the checksums of so many begin."""
    return 1 + num_clusters


def end_at(num_clusters: int) -> int:
    """The cluster in which the description begins: after the checksums."""
    return crcs_at(num_clusters) + -(-num_clusters // CRCS_PER_CLUSTER)


class Layout:
    """Where memory lies on the disk.

    Args:
        regions: What is saved, by name; they may overlap, and what they share is there once.

    Attributes:
        spans: Their bytes, as ranges of addresses.
        offsets: Where each span lies on the disk.
        num_clusters: How many the spans take.
        places: Where each region lies, by name.
    """

    def __init__(self, regions: Mapping[str, Region]) -> None:
        rows = [(region.start, region.end) for region in regions.values()]
        self.spans: Ranges = union(np.array(rows, np.int64).reshape(-1, 2))
        starts, ends = self.spans[:, 0], self.spans[:, 1]
        counts = -(-ends // CLUSTER) - starts // CLUSTER
        firsts = 1 + np.cumsum(counts) - counts
        self.offsets: NDArray[np.int64] = firsts * CLUSTER + starts % CLUSTER
        self.num_clusters = int(counts.sum())
        self.places = {
            name: Place(self.offset_of(region.start), region.end - region.start)
            for name, region in regions.items()
        }

    def offset_of(self, address: int) -> int:
        """Where a byte of a span lies on the disk."""
        rank = int(np.searchsorted(self.spans[:, 0], address, side="right")) - 1
        return int(self.offsets[rank] + address - self.spans[rank, 0])

    def clusters_of(self, dirty: Ranges) -> NDArray[np.int64]:
        """The clusters that some memory lies in, ascending."""
        found = intersection(dirty, self.spans)
        ranks = np.searchsorted(self.spans[:, 0], found[:, 0], side="right") - 1
        on_disk = found + (self.offsets - self.spans[:, 0])[ranks, None]
        rows = np.stack((on_disk[:, 0] // CLUSTER, -(-on_disk[:, 1] // CLUSTER)), axis=1)
        rows = union(rows)
        return expanded(rows[:, 0], rows[:, 1] - rows[:, 0])[1]

    def sources_of(self, clusters: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where clusters are in memory: address, bytes, and zeros before; one row each."""
        starts = clusters * CLUSTER
        ranks = np.searchsorted(self.offsets // CLUSTER, clusters, side="right") - 1
        begins = self.offsets[ranks]
        ends = begins + (self.spans[:, 1] - self.spans[:, 0])[ranks]
        low, high = np.maximum(starts, begins), np.minimum(starts + CLUSTER, ends)
        addresses = self.spans[ranks, 0] + low - begins
        return np.stack((addresses, high - low, low - starts), axis=1)


def packed(step: int, layout: Layout, extra: bytes) -> tuple[bytes, bytes]:
    """The first cluster of a step, and what lies at its end.

    Raises:
        TypeError: If ``extra`` is not bytes.
        ValueError: If it is too long to be read back.
    """
    described = {"regions": {name: list(place) for name, place in layout.places.items()}}
    text = json.dumps(described).encode()
    if not isinstance(extra, bytes | bytearray):
        raise TypeError(f"extra is a {type(extra).__name__}; it may be bytes, as of pickle.dumps()")
    end = text + extra
    if len(end) > _MOST_BYTES:
        raise ValueError(
            f"extra has {len(extra)} bytes; {_MOST_BYTES - len(text)} are possible: save large "
            "things as regions"
        )
    head = _HEAD.pack(
        _MAGIC, _VERSION, step, layout.num_clusters, len(text), len(extra), zlib.crc32(end)
    )
    first = (head + _CRC.pack(zlib.crc32(head))).ljust(CLUSTER, b"\0")
    return first, end.ljust(-(-len(end) // CLUSTER) * CLUSTER, b"\0")


def read_description(chain: Chain, path: Path) -> Description:
    """What a step says of itself.

    Args:
        chain: The step, opened.
        path: Its file, for messages.

    Raises:
        DamagedCheckpointError: If it is none, or not what was saved.
    """
    first = chain.read_at(0, CLUSTER)
    head, (crc,) = first[: _HEAD.size], _CRC.unpack_from(first.ljust(CLUSTER), _HEAD.size)
    if not head.startswith(_MAGIC):
        raise DamagedCheckpointError(f"{path} is no checkpoint of Hatchway's", path=path)
    if zlib.crc32(head) != crc:
        raise damaged(path, "its first cluster")
    _, version, step, num_clusters, text_bytes, extra_bytes, end_crc = _HEAD.unpack(head)
    if version != _VERSION:
        raise DamagedCheckpointError(
            f"{path} is a checkpoint of version {version}; {_VERSION} can be read: it was saved by "
            "a later Hatchway",
            path=path,
        )
    at = end_at(num_clusters) * CLUSTER
    num_bytes = text_bytes + extra_bytes
    if num_bytes > min(_MOST_BYTES, chain.size) or at + num_bytes > chain.size:
        raise damaged(path, "its end")
    end = chain.read_at(at, num_bytes)
    if zlib.crc32(end) != end_crc:
        raise damaged(path, "its description")
    described: Any = json.loads(end[:text_bytes])
    regions = {name: Place(*place) for name, place in described["regions"].items()}
    return Description(step, regions, num_clusters, end[text_bytes:])


def damaged(path: Path, what: str) -> DamagedCheckpointError:
    """The error of a step of which some is not what was saved."""
    return DamagedCheckpointError(
        f"{what} in {path} is not what was saved: that file or one below it is damaged; "
        "restore another step",
        path=path,
    )
