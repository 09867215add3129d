"""Where the leaves of a commit lie: a radix tree whose parts several commits share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hatchway.disk.arrays import np
from hatchway.disk.errors import DamagedIndexError
from hatchway.disk.index.blocks import (
    FANOUT,
    FANOUT_BITS,
    FIRST_BLOCK,
    LEAF_BLOCK_BYTES,
    NODE_BLOCK_BYTES,
    node_block,
    parse_leaf,
    parse_node,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Nodes that are kept, 4 KiB each; a node leads to 16 GiB of a disk in clusters of 64 KiB.
_NUM_KEPT_NODES = 256
# Enough for the leaves of the largest disk, in granules of 512 bytes.
MAX_DEPTH = 5


class IndexFile:
    """A stored index, open for reading.

    Attributes:
        path: As it was opened.
        fd: Its descriptor.
        end: Up to where it was written; what lies behind it is nobody's.
    """

    def __init__(self, path: Path, fd: int, end: int) -> None:
        self.path = path
        self.fd = fd
        self.end = end

    def read(self, offset: int, num_bytes: int) -> bytes:
        """A block.

        Raises:
            DamagedIndexError: If it does not lie in the file.
        """
        found = b""
        if FIRST_BLOCK <= offset <= self.end - num_bytes:
            with contextlib.suppress(OSError):  # as good as cut off
                found = os.pread(self.fd, num_bytes, offset)
        if len(found) < num_bytes:
            raise self.damage(offset, "is cut off")
        return found

    def damage(self, offset: int, said: str) -> DamagedIndexError:
        """The error that a block at an offset is damaged."""
        return DamagedIndexError(
            f"the stored index {self.path} {said} at {offset:#x}; mend it (hatchway disk "
            "index --prove digest)",
            path=self.path,
            offset=offset,
        )


class Tree:
    """The leaves of one commit.

    Level 0 are the leaves; a node of level 1 leads to ``FANOUT`` leaves, and so on.

    Args:
        file: Where it lies.
        root: The root node; 0 of an empty tree.
        depth: The root's level.
    """

    def __init__(self, file: IndexFile, root: int, depth: int) -> None:
        self._file = file
        self.root = root
        self.depth = depth
        self._nodes: dict[tuple[int, int], NDArray[np.uint64]] = {}

    def offset_of(self, level: int, rank: int) -> int:
        """Where a node or leaf lies; 0 if there is none.

        Raises:
            DamagedIndexError: If a node above it is damaged.
        """
        if level >= self.depth:
            return self.root if (level, rank) == (self.depth, 0) else 0
        pointers = self.pointers(level + 1, rank >> FANOUT_BITS)
        return 0 if pointers is None else int(pointers[rank % FANOUT])

    def pointers(self, level: int, rank: int) -> NDArray[np.uint64] | None:
        """Where the children of a node lie; None if there is no such node.

        Raises:
            DamagedIndexError: If it is damaged.
        """
        found = self._nodes.get((level, rank))
        if found is None:
            offset = self.offset_of(level, rank)
            if not offset:
                return None
            found = parse_node(self._file.read(offset, NODE_BLOCK_BYTES), level, rank)
            if found is None:
                raise self._file.damage(offset, "has a damaged node")
            if len(self._nodes) >= _NUM_KEPT_NODES:
                self._nodes.clear()
            self._nodes[level, rank] = found
        return found

    def leaf(self, rank: int) -> tuple[NDArray[np.uint64], NDArray[np.uint16]] | None:
        """The words and layers of a leaf; None where all granules are holes.

        Raises:
            DamagedIndexError: If it, or a node above it, is damaged.
        """
        offset = self.offset_of(0, rank)
        if not offset:
            return None
        found = parse_leaf(self._file.read(offset, LEAF_BLOCK_BYTES), rank)
        if found is None:
            raise self._file.damage(offset, "has a damaged leaf")
        return found


def check(tree: Tree, level: int, rank: int = 0) -> None:
    """Read all that lies below a node, the node included.

    Raises:
        DamagedIndexError: If any of it is damaged.
    """
    if level == 0:
        tree.leaf(rank)
        return
    pointers = tree.pointers(level, rank)
    if pointers is not None:
        for child in np.flatnonzero(pointers).tolist():
            check(tree, level - 1, rank * FANOUT + child)


def depth_for(num_leaves: int) -> int:
    """The depth of a tree that has room for so many leaves."""
    depth = 1
    while num_leaves > FANOUT**depth:
        depth += 1
    return depth


def overlaid(
    below: Tree, changed: dict[int, int], depth: int, append: Callable[[bytes], int]
) -> int:
    """The root of a tree that differs from another one in some nodes of level 1.

    Nodes above them are written; all others are shared.

    Args:
        below: The other one.
        changed: Where those nodes lie, by their rank.
        depth: Of the new tree; at least that of the other one.
        append: Writes a block, and says where it lies.
    """
    for level in range(2, depth + 1):
        if level - 1 == below.depth and below.root:
            changed.setdefault(0, below.root)  # the root that was is a node among others now
        above: dict[int, NDArray[np.uint64]] = {}
        for rank, offset in changed.items():
            parent = rank >> FANOUT_BITS
            if parent not in above:
                found = below.pointers(level, parent) if level <= below.depth else None
                above[parent] = np.zeros(FANOUT, np.uint64) if found is None else found.copy()
            above[parent][rank % FANOUT] = offset
        changed = {
            rank: append(node_block(level, rank, pointers)) for rank, pointers in above.items()
        }
    return changed.get(0, below.root)
