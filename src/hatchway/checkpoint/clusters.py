"""Clusters of memory: copied out of it, and summed."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hatchway.base.native import load_kernels
from hatchway.memory.regions import bytes_at

ABI_VERSION = 1
KERNELS: Any = load_kernels("checkpoint", ABI_VERSION)
CLUSTER = 4096


def gather(sources: NDArray[np.int64], target: bytearray) -> NDArray[np.uint32]:
    """Copy clusters from memory to a buffer, one behind the other.

    Args:
        sources: For each its address, how many bytes are there, and how many zeros come before
            them; after them zeros as well. Shape ``(num_clusters, 3)``.
        target: Where to; no shorter than they are.

    Returns:
        The CRC-32 of each, as it was copied.
    """
    crcs = np.empty(len(sources), np.uint32)
    if KERNELS is not None:
        KERNELS.gather(sources, target, crcs)
        return crcs
    view = memoryview(target)
    for rank, (address, num_bytes, before) in enumerate(sources.tolist()):
        start, after = rank * CLUSTER, CLUSTER - before - num_bytes
        view[start : start + before] = bytes(before)
        view[start + before : start + CLUSTER - after] = bytes_at(address, num_bytes)
        view[start + CLUSTER - after : start + CLUSTER] = bytes(after)
        crcs[rank] = zlib.crc32(view[start : start + CLUSTER])
    return crcs


def checksums(data: memoryview | bytes) -> NDArray[np.uint32]:
    """The CRC-32 of each cluster of some."""
    crcs = np.empty(len(data) // CLUSTER, np.uint32)
    if KERNELS is not None:
        KERNELS.checksums(data, crcs)
        return crcs
    view = memoryview(data)
    crcs[:] = [zlib.crc32(view[at : at + CLUSTER]) for at in range(0, len(view), CLUSTER)]
    return crcs
