"""The bytes of a stored index: slots of its header, leaves, nodes and commits.

All numbers are little-endian. Each block ends in, or holds, a CRC-32 that also covers what the
block is to be: a leaf that lies where another one should be is not taken for it.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from hatchway.disk.arrays import np
from hatchway.disk.leaves import LEAF_GRANULES

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"HATCHIDX"
VERSION = 1
# Two slots take turns: a header that was half written leaves the other one.
SLOT_BYTES, NUM_SLOTS = 512, 2
FIRST_BLOCK = SLOT_BYTES * NUM_SLOTS
FANOUT = 512
FANOUT_BITS = FANOUT.bit_length() - 1

_SLOT = struct.Struct("<8sIIQQQQ")
_CRC = struct.Struct("<I4x")
_PLACE = struct.Struct("<QQ")
_COMMIT = struct.Struct("<4s4xQQQQQIIIIQQQ8sI")
_HEAD_CRC = struct.Struct("<I")
_COMMIT_MAGIC = b"cmit"

LEAF_BLOCK_BYTES = LEAF_GRANULES * 10 + _CRC.size
NODE_BLOCK_BYTES = FANOUT * 8 + _CRC.size
COMMIT_HEAD_BYTES = _COMMIT.size + _HEAD_CRC.size


class Slot(NamedTuple):
    """What the header says.

    Attributes:
        sequence: Grows by one each time; the slot with the higher one counts.
        commit: Where the newest commit lies.
        end: Where the next block is to be written; what lies behind it is garbage.
        fresh_bytes: How long the file was when it was last written as a whole.
    """

    sequence: int
    commit: int
    end: int
    fresh_bytes: int


class Commit(NamedTuple):
    """The index of one chain of layers, from the base up.

    Attributes:
        records_bytes: Of the layer records, which follow the commit's head.
        predecessor: The commit before it in the file, of whatever chain; 0 for none.
        parent: The commit of fewer of the same layers, from which it was made; 0 for none.
        records_before: The commit that has the records of the layers below ``first_layer``.
        root: The root of its tree; 0 where there are no leaves.
        depth: Levels of nodes above the leaves.
        granule_bits: Binary logarithm of the bytes of a granule.
        num_layers: Of the chain.
        first_layer: The number of the first one whose record is in this commit.
        num_leaves: Of its tree.
        device: Of the chain's highest file.
        inode: Of that file.
        name_hash: The first 8 bytes of the BLAKE2b hash of that file's recorded path.
        records_crc: CRC-32 of the layer records.
    """

    records_bytes: int
    predecessor: int
    parent: int
    records_before: int
    root: int
    depth: int
    granule_bits: int
    num_layers: int
    first_layer: int
    num_leaves: int
    device: int
    inode: int
    name_hash: bytes
    records_crc: int


def slot_bytes(slot: Slot) -> bytes:
    """A slot of the header, a sector."""
    content = _SLOT.pack(MAGIC, VERSION, 0, *slot).ljust(SLOT_BYTES - 4, b"\0")
    return content + struct.pack("<I", zlib.crc32(content))


def newest_slot(header: bytes) -> Slot | None:
    """The slot that counts; None if no slot is one of this version, and whole."""
    found = []
    for at in range(0, FIRST_BLOCK, SLOT_BYTES):
        content, crc = header[at : at + SLOT_BYTES - 4], header[at + SLOT_BYTES - 4 :][:4]
        if struct.pack("<I", zlib.crc32(content)) == crc:
            magic, version, _, *fields = _SLOT.unpack_from(content)
            if (magic, version) == (MAGIC, VERSION):
                found.append(Slot(*fields))
    return max(found, default=None)


def leaf_block(rank: int, words: NDArray[np.uint64], layers: NDArray[np.uint16]) -> bytes:
    """A leaf: the words of its granules, then the layers."""
    return _sealed(words.astype("<u8").tobytes() + layers.astype("<u2").tobytes(), 0, rank)


def parse_leaf(raw: bytes, rank: int) -> tuple[NDArray[np.uint64], NDArray[np.uint16]] | None:
    """The words and layers of a leaf; None if it is damaged. They cannot be written to."""
    if not _is_sealed(raw, LEAF_BLOCK_BYTES, 0, rank):
        return None
    words = np.frombuffer(raw, "<u8", LEAF_GRANULES).astype(np.uint64, copy=False)
    layers = np.frombuffer(raw, "<u2", LEAF_GRANULES, LEAF_GRANULES * 8)
    return words, layers.astype(np.uint16, copy=False)


def node_block(level: int, rank: int, pointers: NDArray[np.uint64]) -> bytes:
    """An inner node: where its children lie, 0 for those that are empty.

    Args:
        level: 1 above the leaves, and so on.
        rank: Which one of that level.
        pointers: ``FANOUT`` of them.
    """
    return _sealed(pointers.astype("<u8").tobytes(), level, rank)


def parse_node(raw: bytes, level: int, rank: int) -> NDArray[np.uint64] | None:
    """The pointers of a node; None if it is damaged."""
    if not _is_sealed(raw, NODE_BLOCK_BYTES, level, rank):
        return None
    return np.frombuffer(raw, "<u8", FANOUT).astype(np.uint64)


def commit_head(commit: Commit, offset: int) -> bytes:
    """The head of a commit that is to lie at ``offset``."""
    content = _COMMIT.pack(_COMMIT_MAGIC, *commit)
    return content + _HEAD_CRC.pack(_crc(content, offset, commit.num_layers))


def parse_commit(raw: bytes, offset: int) -> Commit | None:
    """The head of a commit; None if it is damaged, or leads anywhere but back."""
    if len(raw) < COMMIT_HEAD_BYTES:
        return None
    content = raw[: _COMMIT.size]
    magic, *fields = _COMMIT.unpack(content)
    commit = Commit(*fields)
    is_whole = _HEAD_CRC.unpack_from(raw, _COMMIT.size)[0] == _crc(
        content, offset, commit.num_layers
    )
    # Each step from one to another leads towards the beginning, so that none goes on for ever.
    leads_back = max(commit[1:5]) < offset
    return commit if magic == _COMMIT_MAGIC and is_whole and leads_back else None


def _sealed(content: bytes, level: int, rank: int) -> bytes:
    return content + _CRC.pack(_crc(content, level, rank))


def _is_sealed(raw: bytes, num_bytes: int, level: int, rank: int) -> bool:
    if len(raw) != num_bytes:
        return False
    # The padding counts, too.
    return raw[-_CRC.size :] == _CRC.pack(_crc(raw[: -_CRC.size], level, rank))


def _crc(content: bytes, level: int, rank: int) -> int:
    return zlib.crc32(content, zlib.crc32(_PLACE.pack(level, rank)))
