"""Which file of a chain holds each granule: merged region by region, when it is first read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from hatchway.disk.arrays import entries, np
from hatchway.disk.image import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Granules of a leaf: 32 MiB of the disk at clusters of 64 KiB.
LEAF_GRANULES = 512
# What a leaf takes, its arrays' own fields included.
LEAF_BYTES = LEAF_GRANULES * 10 + 512
# Files whose tables are decoded at once: what they take stays in the processor's cache.
_AT_ONCE = 32


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

    @classmethod
    def of(cls, columns: tuple[bytes, bytes]) -> Leaf:
        """The leaf that native code made: its words, and its layers."""
        words, layers = columns
        return cls(memoryview(words).cast("Q"), memoryview(layers).cast("H"))


class Leaves:
    """The leaves of a chain that were used last, bounded in bytes.

    Args:
        most_bytes: What the leaves may take together; one there is in any case.
        make: Makes the leaf of a rank.
    """

    def __init__(self, most_bytes: int, make: Callable[[int], Leaf]) -> None:
        self._make = make
        self._most = max(1, most_bytes // LEAF_BYTES)
        self._leaves: dict[int, Leaf] = {}
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """What the leaves take now."""
        return len(self._leaves) * LEAF_BYTES

    def load(self, rank: int) -> Leaf:
        """The leaf of a rank, made if it is not there."""
        leaf = self._leaves.get(rank)
        if leaf is None:
            leaf = self._make(rank)
            with self._lock:
                while len(self._leaves) >= self._most:
                    del self._leaves[next(iter(self._leaves))]
                self._leaves[rank] = leaf
        return leaf

    def drop(self, first: int, end: int) -> None:
        """Forget leaves ``[first, end)``."""
        with self._lock:
            for rank in [rank for rank in self._leaves if first <= rank < end]:
                del self._leaves[rank]

    def resize(self, size: int) -> None:
        """The disk has another size now."""
        self._leaves.clear()

    def replace_top(self, images: Sequence[Image], top_fd: int) -> None:
        """The highest file lies above the one that was it; leaves say what they said."""

    def settle(self) -> None:
        """Return at once: whoever reads in Python holds a lock."""

    def close(self) -> None:
        """Forget all leaves."""
        self._leaves.clear()

    # What native code does; here it is never the common case.

    def read_at(self, offset: int, size: int) -> None:
        """Nothing is read here."""

    def read_into(self, offset: int, buffer: Any) -> Literal[False]:
        """Nothing is read here."""
        return False

    def overwrite(self, offset: int, data: Any) -> Literal[False]:
        """Nothing is written here."""
        return False

    def update(self, start: int, entries: bytes) -> Literal[False]:
        """No leaf is changed here."""
        return False

    def allow_overwriting(self, may: bool, noted_bytes: int = 0) -> None:
        """Nothing is written here."""

    def stop_overwriting(self) -> list[tuple[int, bytes]]:
        """Nothing was written here."""
        return []


def merged(images: Sequence[Image], start: int, granule: int) -> Leaf:
    """The leaf at guest offset ``start``: for each granule what the highest file says of it.

    Also of what lies past the end of that file, or of one above it, which reads as zeros.
    """
    words = np.zeros(LEAF_GRANULES, np.uint64)
    layers = np.zeros(LEAF_GRANULES, np.uint16)
    is_open = np.ones(LEAF_GRANULES, np.bool_)
    for end in range(len(images), 0, -_AT_ONCE):
        numbers = [
            number
            for number in range(end - 1, max(end - _AT_ONCE, 0) - 1, -1)
            if start < images[number].size
        ]
        rows = _rows_of([images[number] for number in numbers], start, granule)
        found = rows != 0
        highest = found.argmax(0)
        taken = is_open & found.any(0)
        words[taken] = rows[highest[taken], taken]
        layers[taken] = np.array(numbers, np.uint16)[highest[taken]]
        is_open &= ~taken
        if not is_open.any():
            break
    return Leaf(words.data, layers.data)


def _rows_of(images: Sequence[Image], start: int, granule: int) -> NDArray[np.uint64]:
    """What each image says of the granules of a leaf, a row an image."""
    rows = np.zeros((max(len(images), 1), LEAF_GRANULES), np.uint64)
    plain: list[tuple[int, bytes]] = []
    for rank, image in enumerate(images):
        raw = image.plain_entries(start, LEAF_GRANULES, granule)
        if raw is not None:
            if raw:
                plain.append((rank, raw))
            continue
        words = image.words(start, LEAF_GRANULES, granule)
        if words is not None:
            rows[rank] = words
    if plain:
        ranks = [rank for rank, _ in plain]
        found = np.frombuffer(b"".join(raw for _, raw in plain), ">u8").astype(np.uint64)
        try:
            decoded = entries.words_of(found, granule, granule, has_data_file=False, version=3)
        except entries.EntryError as error:
            # By itself it says which file, and where.
            images[ranks[error.rank // LEAF_GRANULES]].words(start, LEAF_GRANULES, granule)
            raise
        rows[ranks] = decoded.reshape(-1, LEAF_GRANULES)
    return rows
