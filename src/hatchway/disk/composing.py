"""How leaves come about: from the tables of files that do not change, and what is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hatchway.disk import kernel
from hatchway.disk.arrays import np
from hatchway.disk.errors import DamagedIndexError
from hatchway.disk.image import Image
from hatchway.disk.kernel import KernelLeaves
from hatchway.disk.leaves import LEAF_GRANULES, Leaf, Leaves, merged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hatchway.disk._native import ChainKernel
    from hatchway.disk.index.shortcut import Shortcut


def leaves_of(
    images: Sequence[Image],
    granule: int,
    most_bytes: int,
    shortcut: Shortcut | None,
    *,
    top_fd: int,
    may_share: bool,
) -> Leaves | KernelLeaves:
    """What is known of where the pieces of a chain lie, in native code if there is any.

    Args:
        images: The chain's, the base first.
        granule: Bytes of a granule: the smallest of the chain's.
        most_bytes: Bound of what is kept.
        shortcut: By which the lowest files were opened; None where none were.
        top_fd: A descriptor of the highest file's clusters that may be written to, or -1.
        may_share: Whether nobody changes the files: then it is kept once for all that open them.
    """
    composer = Composer(images, granule, is_written=top_fd >= 0, shortcut=shortcut)
    if not kernel.is_built():
        return Leaves(most_bytes, composer.make)
    key = None
    if may_share and top_fd < 0 and all(image.file.fd >= 0 for image in images):
        key = images[-1].l1_at, *(image.file.identity for image in images)
    leaves = KernelLeaves(
        images,
        granule,
        most_bytes,
        composer.make,
        makes_all=composer.makes_all,
        top_fd=top_fd,
        key=key,
    )
    composer.kernel = leaves.kernel
    return leaves


class Composer:
    """Makes the leaves that native code does not make by itself.

    Args:
        images: The chain's, the base first.
        granule: Bytes of a granule: the smallest of the chain's.
        is_written: Whether the highest file is written to; what it says is asked of its image.
        shortcut: By which the lowest files were opened; None where none were.

    Attributes:
        kernel: What merges tables in native code; None to do it in Python.
    """

    def __init__(
        self,
        images: Sequence[Image],
        granule: int,
        *,
        is_written: bool,
        shortcut: Shortcut | None,
    ) -> None:
        self._images = images
        self._granule = granule
        self._is_written = is_written
        self._index = None if shortcut is None else shortcut.index
        self._num_layers = 0 if shortcut is None else shortcut.num_layers
        self.kernel: ChainKernel | None = None

    @property
    def makes_all(self) -> bool:
        """Whether every leaf is to be made here."""
        return self._is_written or self._index is not None

    def make(self, rank: int) -> Leaf:
        """The leaf of a rank, as the files are now."""
        start = rank * LEAF_GRANULES * self._granule
        end = len(self._images) - self._is_written
        below, first = self._stored(start)
        leaf = self._merged(rank, first, end)
        if below is not None:
            leaf = _over(np.frombuffer(leaf.words, np.uint64), leaf.layers, below)
        if not self._is_written:
            return leaf
        written = self._images[end].words(start, LEAF_GRANULES, self._granule)
        return leaf if written is None else _over(written, np.uint16(end), leaf)

    def _stored(self, start: int) -> tuple[Leaf | None, int]:
        """What the index says of a region, and how many layers it speaks for."""
        if self._index is None:
            return None, 0
        try:
            found = self._index.region(start, self._granule, self._num_layers)
        except DamagedIndexError:
            return None, 0  # the tables say the same
        return None if found is None else Leaf(*(part.data for part in found)), self._num_layers

    def _merged(self, rank: int, first: int, end: int) -> Leaf:
        """What layers ``[first, end)`` say."""
        found = None if self.kernel is None else self.kernel.merged(rank, first, end)
        if found is not None:
            return Leaf.of(found)
        start = rank * LEAF_GRANULES * self._granule
        leaf = merged(self._images[first:end], start, self._granule)
        if first:
            layers = np.frombuffer(leaf.layers, np.uint16) + np.uint16(first)
            leaf = Leaf(leaf.words, layers.data)
        return leaf


def _over(words: NDArray[np.uint64], layers: Any, below: Leaf) -> Leaf:
    """What a leaf says where words above it do not."""
    is_there = words != 0
    words = np.where(is_there, words, np.frombuffer(below.words, np.uint64))
    of = np.where(is_there, layers, np.frombuffer(below.layers, np.uint16)).astype(np.uint16)
    return Leaf(words.data, of.data)
