"""Changing the name of the backing file, in one sector of the header."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hatchway.disk.active.guest import GuestClusters
from hatchway.disk.errors import UnsupportedImageError
from hatchway.disk.fields import EXTENSION, Extension
from hatchway.disk.header import extensions_of, extensions_place

_SECTOR = 512
_NAME_FIELDS = struct.Struct(">QI")
_NAME_FIELDS_AT = 8


def set_backing(guest: GuestClusters, name: bytes | None, backing_format: str | None) -> None:
    """Have the header name another backing file, or none, once all changes are on the disk.

    A cut leaves the old name with the old format, or the new one with the new one. Other header
    extensions are kept.

    Args:
        guest: The clusters of the file.
        name: As it is to be written; None for no backing file.
        backing_format: What that file is; None without one.

    Raises:
        UnsupportedImageError: If the first cluster has no room for it.
        ImageError: If the header cannot be read or written.
    """
    guest.commit()
    files, header = guest.files, guest.header
    path = files.tables.path
    before = files.tables.pread(header.cluster_size, 0).ljust(_SECTOR, b"\0")
    header_bytes, extensions_end = extensions_place(before, header)
    found = extensions_of(before, path, header_bytes, extensions_end)
    in_use = _in_use(before, header_bytes, found)
    for after in _layouts(before, header_bytes, found, name, backing_format):
        changed = np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)
        changed[:_SECTOR] = False
        if not (changed & in_use).any():
            break
    else:
        raise UnsupportedImageError(
            f"{path} has no room in its first cluster, of {header.cluster_size} bytes, to name "
            f"{name!r} as its backing file while it names another; use a shorter name (a relative "
            "one, or a link), or make the image anew with larger clusters: qemu-img convert",
            path=path,
            offset=_NAME_FIELDS_AT,
        )
    end = int(np.flatnonzero(changed)[-1]) + 1 if changed.any() else 0
    # Nothing on the disk leads to what changes there.
    files.write(after[_SECTOR:end], _SECTOR)
    files.write_header(after[:_SECTOR], 0)


def _in_use(start: bytes, header_bytes: int, found: dict[int, bytes]) -> NDArray[np.bool_]:
    """The bytes of the first cluster that the header as it is leads to."""
    in_use = np.zeros(len(start), np.bool_)
    in_use[: header_bytes + len(_packed(found))] = True
    name_at, name_bytes = _NAME_FIELDS.unpack_from(start, _NAME_FIELDS_AT)
    if name_at:
        in_use[name_at : name_at + name_bytes] = True
    return in_use


def _layouts(
    before: bytes,
    header_bytes: int,
    found: dict[int, bytes],
    name: bytes | None,
    backing_format: str | None,
) -> Iterator[bytes]:
    """First clusters that say it, the simplest first; nothing is where they lack room."""
    kind = int(Extension.BACKING_FORMAT)
    others = {other: data for other, data in found.items() if other != kind}
    if backing_format is not None:
        text = backing_format.encode()
        candidates = [{**found, kind: text} if kind in found else {kind: text, **others}]
    else:
        # What is left of a format says nothing without a name, and may be all there is room for.
        candidates = [others, found]
    old_at, old_bytes = _NAME_FIELDS.unpack_from(before, _NAME_FIELDS_AT)
    for extensions in candidates:
        packed = _packed(extensions)
        end = header_bytes + len(packed)
        for at in (end, max(end, old_at + old_bytes), max(end, _SECTOR)):
            stop = at + len(name or b"")
            if max(end, stop) > len(before):
                continue
            after = bytearray(before)
            fields = (0, 0) if name is None else (at, len(name))
            _NAME_FIELDS.pack_into(after, _NAME_FIELDS_AT, *fields)
            after[header_bytes:end] = packed
            after[at:stop] = name or b""
            yield bytes(after)


def _packed(extensions: dict[int, bytes]) -> bytes:
    parts = [
        EXTENSION.pack(kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")
        for kind, data in extensions.items()
    ]
    return b"".join(parts) + EXTENSION.pack(0, 0)
