"""Compressed clusters: where they lie, and how they are unpacked."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hatchway.base.lazy import LazyModule
from hatchway.disk.errors import CorruptImageError

if TYPE_CHECKING:
    import zlib
else:
    zlib = LazyModule("zlib")  # of what is read, few things are compressed

_SECTOR = 512
_WINDOW_BITS = -12  # a raw deflate stream, as QEMU writes it


def extent_of(value: int, cluster_bits: int) -> tuple[int, int]:
    """Where a compressed cluster lies: its first byte, and how many it takes at most.

    Args:
        value: An L2 entry without its two highest bits.
        cluster_bits: Binary logarithm of the cluster size.
    """
    offset_bits = 62 - (cluster_bits - 8)
    offset = value & ((1 << offset_bits) - 1)
    num_sectors = (value >> offset_bits) + 1
    return offset, num_sectors * _SECTOR - offset % _SECTOR


def unpack(packed: bytes, cluster_size: int, compression: str, path: Path, offset: int) -> bytes:
    """The contents of a compressed cluster.

    Args:
        packed: The cluster, and maybe bytes after it.
        cluster_size: Its size, unpacked.
        compression: ``"zlib"`` or ``"zstd"``.
        path: For messages.
        offset: Where it lies, for messages.

    Raises:
        CorruptImageError: If it cannot be unpacked, or is too short.
    """
    try:
        unpacked = _UNPACK[compression](packed, cluster_size)
    except (zlib.error, ValueError) as error:
        raise CorruptImageError(
            f"the compressed cluster of {path} at {offset:#x} cannot be unpacked: {error}",
            path=path,
            offset=offset,
        ) from error
    if len(unpacked) < cluster_size:
        raise CorruptImageError(
            f"the compressed cluster of {path} at {offset:#x} has {len(unpacked)} bytes instead "
            f"of {cluster_size}",
            path=path,
            offset=offset,
        )
    return unpacked


class RecentClusters:
    """The clusters that were unpacked last, bounded in bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._num_bytes = 0
        self._clusters: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int], load: Callable[[], bytes]) -> bytes:
        """The cluster of a key; loaded if it is not among them."""
        with self._lock:
            cluster = self._clusters.get(key)
            if cluster is not None:
                self._clusters.move_to_end(key)
                return cluster
        cluster = load()
        with self._lock:
            if len(cluster) <= self._most_bytes and key not in self._clusters:
                self._clusters[key] = cluster
                self._num_bytes += len(cluster)
            while self._num_bytes > self._most_bytes:
                self._num_bytes -= len(self._clusters.popitem(last=False)[1])
        return cluster


def _inflate(packed: bytes, cluster_size: int) -> bytes:
    return zlib.decompressobj(_WINDOW_BITS).decompress(packed, cluster_size)


def _unpack_zstd(packed: bytes, cluster_size: int) -> bytes:
    import zstandard

    # Bytes after the last frame belong to other clusters, and are not read.
    reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
    unpacked = b""
    try:
        while len(unpacked) < cluster_size:
            more = reader.read(cluster_size - len(unpacked))
            if not more:
                break
            unpacked += more
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    return unpacked


_UNPACK: dict[str, Callable[[bytes, int], bytes]] = {"zlib": _inflate, "zstd": _unpack_zstd}
