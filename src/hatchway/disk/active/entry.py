"""What an L2 entry says of one guest cluster, for those who change it.

A cluster is one *unit*, or with extended L2 entries 32 of them, its subclusters. A set of units
is a number with a bit for each, the first one lowest.
"""

from __future__ import annotations

from typing import NamedTuple

from hatchway.disk.fields import COPIED
from hatchway.disk.header import Header
from hatchway.disk.words import OFFSET_MASK, VALUE_MASK

_COMPRESSED = 1 << 62
_ZERO = 1


class Entry(NamedTuple):
    """A guest cluster.

    Attributes:
        host: The host offset of the cluster that it has; None if it has none.
        is_own: Whether nothing else refers to that: no internal snapshot does.
        data: The units whose bytes lie there.
        zero: The units that read as zeros, whatever lies below. All others are holes.
        packed: Of a compressed cluster, what says where it lies; then there is nothing else.
    """

    host: int | None = None
    is_own: bool = False
    data: int = 0
    zero: int = 0
    packed: int | None = None


HOLE = Entry()


def decoded(entry: int, bitmap: int, header: Header) -> Entry:
    """What the two words of an entry say; ``bitmap`` is 0 where entries have one.

    Raises:
        ValueError: If they contradict the format.
    """
    if entry & _COMPRESSED:
        if header.has_data_file:
            raise ValueError("is compressed, beside an external data file")
        if bitmap:
            raise ValueError("is compressed and has subclusters")
        return Entry(packed=entry & VALUE_MASK)
    offset, is_own = entry & OFFSET_MASK, bool(entry & COPIED)
    if offset % header.cluster_size:
        raise ValueError("does not point to the beginning of a cluster")
    host = offset if offset or (header.has_data_file and is_own) else None
    if header.has_subclusters:
        data, zero = bitmap & 0xFFFFFFFF, bitmap >> 32
        if data & zero:
            raise ValueError("has a subcluster that is both data and zeros")
        if data and host is None:
            raise ValueError("has subclusters with data, and points nowhere")
        return Entry(host, is_own, data, zero)
    zero = entry & _ZERO
    if zero and header.version < 3:
        raise ValueError("is a zero cluster, which version 2 does not have")
    return Entry(host, is_own, int(host is not None and not zero), zero)


def encoded(entry: Entry, header: Header) -> bytes:
    """The entry as it lies in the file."""
    if entry.packed is not None:
        words = _COMPRESSED | entry.packed, 0
    else:
        own = COPIED if entry.is_own and entry.host is not None else 0
        words = (entry.host or 0) | own, entry.zero << 32 | entry.data
    if header.has_subclusters:
        return words[0].to_bytes(8, "big") + words[1].to_bytes(8, "big")
    return (words[0] | (_ZERO if entry.zero else 0)).to_bytes(8, "big")
