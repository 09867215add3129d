"""Writing the commits of an index: one for all layers, and a few for fewer of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hatchway.disk.extents import granule_of
from hatchway.disk.image import Image
from hatchway.disk.index.appending import Appender
from hatchway.disk.index.blocks import FANOUT, FANOUT_BITS, Commit, leaf_block, node_block
from hatchway.disk.index.painting import Painted, paint
from hatchway.disk.index.records import LayerRecord, name_hash, records_bytes
from hatchway.disk.index.stored import StoredIndex
from hatchway.disk.index.tree import Tree, depth_for, overlaid
from hatchway.disk.leaves import LEAF_GRANULES

# Layers from the top at which a commit of its own is made: when a layer changes, the index
# of those below it serves on, and at most eight times the layers above it are merged again.
_DISTANCES = (8, 64, 512, 4096, 32768)


class Made(NamedTuple):
    """A commit that was written.

    Attributes:
        offset: Where it lies.
        commit: What it says.
        segments: Which commits have the records of its layers: offset, first layer, end.
    """

    offset: int
    commit: Commit
    segments: list[tuple[int, int, int]]


def made(
    images: Sequence[Image],
    base: Made | None,
    records: list[LayerRecord],
    record: Callable[[int, bytes], LayerRecord],
    appender: Appender,
    progress: Callable[[int, int], None],
) -> Made:
    """Write the commits of a chain, all but the last one for fewer of its layers.

    Args:
        images: The chain, the base first.
        base: The commit of the lowest layers that it goes on from; its segments are those
            that hold on. None for the beginning.
        records: Of the layers of that commit; those of all others are added.
        record: Gives the record of a layer, from its number and digest.
        appender: Of the index, whose file has the base.
        progress: As in :func:`~hatchway.disk.index.build`.

    Returns:
        The last one.

    Raises:
        CorruptImageError: If a table contradicts the format.
        DamagedIndexError: If what it goes on from is damaged.
    """
    num_below = 0 if base is None else base.commit.num_layers
    granule = granule_of(images) if base is None else 1 << base.commit.granule_bits
    leaf_bytes = LEAF_GRANULES * granule
    depth = depth_for(-(-max(image.size for image in images) // leaf_bytes))
    below = Tree(appender.file, 0, depth)
    if base is not None:
        below = Tree(appender.file, base.commit.root, base.commit.depth)
        depth = max(depth, base.commit.depth)
    milestones = _milestones(len(images), num_below)
    painted = Painted([{}], [0])
    if num_below < len(images):
        painted = paint(images, below, num_below, granule, milestones, appender.append, progress)
    for digest in painted.digests:
        records.append(record(len(records), digest))
    newest = base
    for end, changed, num_new in zip(
        milestones, painted.changed, painted.num_new_leaves, strict=True
    ):
        appender.flush()
        root = overlaid(below, changed, depth, appender.append)
        appender.flush()
        below = Tree(appender.file, root, depth)
        newest = _committed(newest, below, granule, num_new, records[:end], appender)
    assert newest is not None
    return newest


def copied(
    stored: StoredIndex,
    base: Made,
    records: Sequence[LayerRecord],
    num_layers: int,
    appender: Appender,
) -> Made:
    """Write a commit of another file, and a few of those that it was made from.

    Args:
        stored: The other file.
        base: The commit.
        records: Of its layers.
        num_layers: Of the chain that is to be indexed.
        appender: Of the new file.

    Raises:
        DamagedIndexError: If the other file is damaged.
    """
    wanted = [num_layers - distance for distance in (0, *_DISTANCES)]
    kept: list[Commit] = []
    for _, commit in stored.ancestry():
        if commit.num_layers <= base.commit.num_layers and wanted[0] >= commit.num_layers:
            kept.append(commit)
            wanted = [most for most in wanted if most < commit.num_layers]
            if not wanted or wanted[0] < 1:
                break
    newest: Made | None = None
    at: dict[int, int] = {}
    for commit in reversed(kept):
        source = Tree(stored.file, commit.root, commit.depth)
        root = _copied_part(source, commit.depth, 0, at, appender)
        tree = Tree(appender.file, root, commit.depth)
        num_new = commit.num_leaves - (0 if newest is None else newest.commit.num_leaves)
        below = records[: commit.num_layers]
        newest = _committed(newest, tree, stored.granule_bytes, num_new, below, appender)
    appender.flush()
    assert newest is not None
    return newest


def _copied_part(
    source: Tree, level: int, rank: int, at: dict[int, int], appender: Appender
) -> int:
    """Copy a node or leaf and all below it; the parts that two trees share, once.

    Args:
        source: The tree.
        level: Of the node; 0 of a leaf.
        rank: Its rank on that level.
        at: Where each block of the source lies in the copy, for those that were copied.
        appender: Of the copy.
    """
    offset = source.offset_of(level, rank)
    if not offset or offset in at:
        return at.get(offset, 0)
    if level == 0:
        leaf = source.leaf(rank)
        assert leaf is not None
        at[offset] = appender.append(leaf_block(rank, *leaf))
        return at[offset]
    found = source.pointers(level, rank)
    assert found is not None
    pointers = np.zeros(FANOUT, np.uint64)
    for child in np.flatnonzero(found).tolist():
        first = rank << FANOUT_BITS
        pointers[child] = _copied_part(source, level - 1, first + child, at, appender)
    at[offset] = appender.append(node_block(level, rank, pointers))
    return at[offset]


def _committed(
    base: Made | None,
    tree: Tree,
    granule: int,
    num_new_leaves: int,
    records: Sequence[LayerRecord],
    appender: Appender,
) -> Made:
    """Write a commit with the records that no commit before it has.

    And with those of commits that have no more of them than this one has then: so a chain of
    a thousand layers, made one by one, has its records in ten places instead of a thousand, and
    each record is written ten times at most.
    """
    segments = [] if base is None else list(base.segments)
    num_layers = len(records)
    first = segments[-1][2] if segments else 0
    while segments and segments[-1][2] - segments[-1][1] <= num_layers - first:
        first = segments.pop()[1]
    raw = records_bytes(records[first:])
    highest = records[-1]
    parent = 0
    if base is not None:
        is_above = base.commit.num_layers < num_layers
        parent = base.offset if is_above else base.commit.parent
    commit = Commit(
        records_bytes=len(raw),
        predecessor=appender.newest,
        parent=parent,
        records_before=segments[-1][0] if segments else 0,
        root=tree.root,
        depth=tree.depth,
        granule_bits=granule.bit_length() - 1,
        num_layers=num_layers,
        first_layer=first,
        num_leaves=num_new_leaves + (0 if base is None else base.commit.num_leaves),
        device=highest.identity.device,
        inode=highest.identity.inode,
        name_hash=name_hash(highest.name),
        records_crc=zlib.crc32(raw),
    )
    offset = appender.append_commit(commit, raw)
    return Made(offset, commit, [*segments, (offset, first, num_layers)])


def _milestones(num_layers: int, num_below: int) -> list[int]:
    """Of how many layers a commit is made: all of them last."""
    below = [num_layers - distance for distance in reversed(_DISTANCES)]
    return [*(number for number in below if number > num_below), num_layers]
