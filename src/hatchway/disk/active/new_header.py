"""The header of a file that is made anew."""

from __future__ import annotations

from hatchway.disk.fields import BASE, COMPRESSIONS, EXTENSION, MAGIC, VERSION_3, Extension, Feature

# What QEMU writes too, the compression type included.
_HEADER_BYTES = 112


def packed_header(
    *,
    cluster_size: int,
    size: int,
    l1_offset: int,
    l1_size: int,
    refcount_table_offset: int,
    refcount_table_clusters: int,
    refcount_bits: int,
    has_subclusters: bool,
    compression: str,
    backing_name: bytes | None,
    backing_format: str | None,
) -> bytes:
    """The header of a new file of version 3; the arguments are fields of :class:`Header`."""
    number = {name: number for number, name in COMPRESSIONS.items()}[compression]
    incompatible = (Feature.COMPRESSION if number else 0) | (
        Feature.EXTENDED_L2 if has_subclusters else 0
    )
    extensions = b""
    if backing_format is not None:
        text = backing_format.encode()
        extensions = EXTENSION.pack(Extension.BACKING_FORMAT, len(text)) + text.ljust(8, b"\0")
    extensions += EXTENSION.pack(0, 0)
    name, name_offset = backing_name or b"", _HEADER_BYTES + len(extensions)
    base = BASE.pack(
        MAGIC,
        3,
        name_offset if name else 0,
        len(name),
        cluster_size.bit_length() - 1,
        size,
        0,
        l1_size,
        l1_offset,
        refcount_table_offset,
        refcount_table_clusters,
        0,
        0,
    )
    order = refcount_bits.bit_length() - 1
    more = VERSION_3.pack(incompatible, 0, 0, order, _HEADER_BYTES) + bytes([number])
    return (base + more).ljust(_HEADER_BYTES, b"\0") + extensions + name
