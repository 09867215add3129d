"""Which file of a chain holds each granule: merged region by region, when it is first read."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from hatchway.disk.image import Image

# Granules of a leaf: 32 MiB of the disk at clusters of 64 KiB.
LEAF_GRANULES = 512
# What a leaf takes, its arrays' own fields included.
LEAF_BYTES = LEAF_GRANULES * 10 + 512


class Leaf:
    """``LEAF_GRANULES`` granules of the disk.

    Attributes:
        words: What the file that holds each one says of it.
        layers: The number of that file, the base being 0.
    """

    __slots__ = ("layers", "words")

    def __init__(self, words: memoryview, layers: memoryview) -> None:
        self.words = words
        self.layers = layers


class Leaves:
    """The leaves of a chain that were used last, bounded in bytes.

    Args:
        images: The chain's, the base first.
        granule: Bytes of a granule: the smallest of the chain's.
        most_bytes: What the leaves may take together; one there is in any case.
    """

    def __init__(self, images: Sequence[Image], granule: int, most_bytes: int) -> None:
        self._images = images
        self._granule = granule
        self._most = max(1, most_bytes // LEAF_BYTES)
        self._leaves: dict[int, Leaf] = {}
        self._lock = threading.Lock()
        self.get = self._leaves.get

    @property
    def num_bytes(self) -> int:
        """What the leaves take now."""
        return len(self._leaves) * LEAF_BYTES

    def load(self, rank: int) -> Leaf:
        """The leaf of a rank, merged from the tables of all files if it is not there."""
        leaf = self.get(rank)
        if leaf is None:
            leaf = merged(self._images, rank * LEAF_GRANULES * self._granule, self._granule)
            with self._lock:
                while len(self._leaves) >= self._most:
                    del self._leaves[next(iter(self._leaves))]
                self._leaves[rank] = leaf
        return leaf


def merged(images: Sequence[Image], start: int, granule: int) -> Leaf:
    """The leaf at guest offset ``start``: for each granule what the highest file says of it.

    Also of what lies past the end of that file, or of one above it, which reads as zeros.
    """
    words = np.zeros(LEAF_GRANULES, np.uint64)
    layers = np.zeros(LEAF_GRANULES, np.uint16)
    is_open = np.ones(LEAF_GRANULES, np.bool_)
    for number in range(len(images) - 1, -1, -1):
        image = images[number]
        found = image.words(start, LEAF_GRANULES, granule) if start < image.size else None
        if found is not None:
            taken = is_open & (found != 0)
            words[taken] = found[taken]
            layers[taken] = number
            is_open &= ~taken
        if not is_open.any():
            break
    return Leaf(words.data, layers.data)
