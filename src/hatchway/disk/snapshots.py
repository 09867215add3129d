"""The internal snapshots of a file."""

from __future__ import annotations

import struct
from typing import NamedTuple

from hatchway.disk.errors import CorruptImageError
from hatchway.disk.files import ImageFile
from hatchway.disk.header import MAX_SNAPSHOTS, Header

_SNAPSHOT = struct.Struct(">QIHHIIQII")


class Snapshot(NamedTuple):
    """An internal snapshot.

    Attributes:
        id: Unique in its file.
        name: What the user called it.
        l1_offset: Where its L1 table lies.
        l1_size: Entries of that.
        size: The disk's size then, in bytes.
        seconds: When it was made, since 1970.
        num_bytes: Bytes of what the table of snapshots says of it.
    """

    id: str
    name: str
    l1_offset: int
    l1_size: int
    size: int
    seconds: int
    num_bytes: int


def read_snapshots(file: ImageFile, header: Header) -> list[Snapshot]:
    """The internal snapshots of a qcow2 file, in the order of their table.

    Raises:
        CorruptImageError: If the table contradicts the format.
    """
    if header.num_snapshots > MAX_SNAPSHOTS:
        raise CorruptImageError(
            f"{file.path} is said to have {header.num_snapshots} snapshots; "
            f"{MAX_SNAPSHOTS} are possible",
            path=file.path,
            offset=60,
        )
    if header.snapshots_offset % header.cluster_size:
        raise CorruptImageError(
            f"the snapshot table of {file.path} is said to lie at {header.snapshots_offset:#x}, "
            "which is not at a cluster of it",
            path=file.path,
            offset=64,
        )
    found: list[Snapshot] = []
    at = header.snapshots_offset
    for _ in range(header.num_snapshots):
        found.append(_snapshot_at(file, at, header.size))
        at += found[-1].num_bytes
    return found


def _snapshot_at(file: ImageFile, at: int, size: int) -> Snapshot:
    raw = file.read(_SNAPSHOT.size + 16, at)
    if len(raw) < _SNAPSHOT.size:
        raise CorruptImageError(
            f"the snapshot table of {file.path} ends at {at:#x}, with the file",
            path=file.path,
            offset=at,
        )
    l1_offset, l1_size, id_bytes, name_bytes, seconds, _, _, _, extra_bytes = _SNAPSHOT.unpack_from(
        raw
    )
    extra = raw[_SNAPSHOT.size : _SNAPSHOT.size + min(extra_bytes, 16)]
    disk_bytes = int.from_bytes(extra[8:16], "big") if extra_bytes >= 16 else size
    names = file.read(id_bytes + name_bytes, at + _SNAPSHOT.size + extra_bytes)
    num_bytes = (_SNAPSHOT.size + extra_bytes + id_bytes + name_bytes + 7) & ~7
    texts = names[:id_bytes], names[id_bytes:]
    identifier, name = (text.decode("utf-8", "surrogateescape") for text in texts)
    return Snapshot(identifier, name, l1_offset, l1_size, disk_bytes, seconds, num_bytes)
