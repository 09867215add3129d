"""The header of a qcow2 file, versions 2 and 3.

The format: "QCOW2" in QEMU's documentation of image formats (``docs/interop/qcow2.txt``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hatchway.disk.errors import CorruptImageError, UnsupportedImageError
from hatchway.disk.fields import (
    AUTOCLEAR_BITMAPS,
    AUTOCLEAR_RAW_DATA_FILE,
    BASE,
    COMPRESSIONS,
    EXTENSION,
    KNOWN_FEATURES,
    MAGIC,
    VERSION_3,
    Extension,
    Feature,
)

# What is read at first: nearly always the header with all that belongs to it.
FIRST_BYTES = 4096
MAX_BACKING_NAME_BYTES = 1023
# QEMU's own bounds: 32 MiB of L1 table, which is 2 PiB at clusters of 64 KiB.
MAX_L1_BYTES = 32 << 20
MAX_SNAPSHOTS = 65536

_BITMAPS_FIELDS = struct.Struct(">I4xQQ")
_ENCRYPTIONS = {1: "AES", 2: "LUKS"}
# Looked at for each cluster that is written: a flag would be made for each look.
_DATA_FILE, _EXTENDED_L2 = int(Feature.DATA_FILE), int(Feature.EXTENDED_L2)


class CutHeaderError(CorruptImageError):
    """A header goes on after the bytes that were given."""


class Header(NamedTuple):
    """What a qcow2 file says of itself.

    Attributes:
        version: 2 or 3.
        cluster_bits: Binary logarithm of the cluster size, from 9 to 21.
        size: The guest's disk, in bytes.
        l1_size: Entries of the active L1 table.
        l1_offset: Where it lies.
        refcount_table_offset: Where that table lies.
        refcount_table_clusters: How many clusters it takes.
        refcount_order: Binary logarithm of the bits of a refcount.
        num_snapshots: Internal snapshots.
        snapshots_offset: Where their table lies.
        incompatible: Feature bits that a reader must know.
        compatible: Feature bits that nobody has to know.
        autoclear: Feature bits that a writer clears if it does not know them.
        compression: ``"zlib"`` or ``"zstd"``.
        backing_name: As it is written in the header; None without a backing file.
        backing_format: As it is written there; None where it is left to guessing.
        data_file_name: The external data file; None where clusters lie in the file itself.
        bitmaps: How many there are, the bytes of their directory, and where it lies; None
            without any that hold.
    """

    version: int
    cluster_bits: int
    size: int
    l1_size: int
    l1_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    refcount_order: int
    num_snapshots: int
    snapshots_offset: int
    incompatible: int
    compatible: int
    autoclear: int
    compression: str
    backing_name: str | None
    backing_format: str | None
    data_file_name: str | None
    bitmaps: tuple[int, int, int] | None

    @property
    def cluster_size(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.cluster_bits

    @property
    def is_dirty(self) -> bool:
        """Whether refcounts may be wrong, since a writer did not close the file."""
        return bool(self.incompatible & Feature.DIRTY)

    @property
    def is_marked_corrupt(self) -> bool:
        """Whether a writer found the file's tables wrong, and said so."""
        return bool(self.incompatible & Feature.CORRUPT)

    @property
    def has_data_file(self) -> bool:
        """Whether clusters lie in another file."""
        return bool(self.incompatible & _DATA_FILE)

    @property
    def has_raw_data_file(self) -> bool:
        """Whether the external data file, read by itself, is the guest's disk."""
        return self.has_data_file and bool(self.autoclear & AUTOCLEAR_RAW_DATA_FILE)

    @property
    def has_subclusters(self) -> bool:
        """Whether L2 entries have 16 bytes, with a bitmap of 32 subclusters."""
        return bool(self.incompatible & _EXTENDED_L2)

    @property
    def l2_entry_bytes(self) -> int:
        """Bytes of an entry of an L2 table."""
        return 16 if self.has_subclusters else 8

    @property
    def granule_bytes(self) -> int:
        """What is allocated at a time: a subcluster, or a cluster."""
        return self.cluster_size // 32 if self.has_subclusters else self.cluster_size


def parse_header(start: bytes, path: Path, file_bytes: int) -> Header:
    """Read a header.

    Args:
        start: The first bytes of the file: its first cluster, or ``FIRST_BYTES``.
        path: For messages.
        file_bytes: The size of the file.

    Raises:
        CorruptImageError: If it contradicts the format.
        CutHeaderError: If there may be more of it in the file than was given.
        UnsupportedImageError: If it needs what is not there: encryption, unknown features.
    """
    if len(start) < BASE.size or not start.startswith(MAGIC):
        raise CorruptImageError(f"{path} is no qcow2 file", path=path, offset=0)
    (
        _,
        version,
        backing_offset,
        backing_bytes,
        cluster_bits,
        size,
        encryption,
        l1_size,
        l1_offset,
        refcount_offset,
        refcount_clusters,
        num_snapshots,
        snapshots_offset,
    ) = BASE.unpack_from(start)
    if version not in (2, 3):
        raise UnsupportedImageError(
            f"{path} is a qcow2 file of version {version}; 2 and 3 can be read", path=path, offset=4
        )
    if not 9 <= cluster_bits <= 21:
        raise CorruptImageError(
            f"{path} has clusters of 2**{cluster_bits} bytes; 2**9 to 2**21 are possible",
            path=path,
            offset=20,
        )
    incompatible = compatible = autoclear = 0
    refcount_order, header_bytes, compression = 4, BASE.size, 0
    if version == 3:
        if len(start) < BASE.size + VERSION_3.size:
            raise CorruptImageError(f"the header of {path} ends early", path=path, offset=72)
        incompatible, compatible, autoclear, refcount_order, header_bytes = VERSION_3.unpack_from(
            start, BASE.size
        )
        if header_bytes < 104 or header_bytes > 1 << cluster_bits:
            raise CorruptImageError(
                f"the header of {path} says that it has {header_bytes} bytes", path=path, offset=100
            )
        if header_bytes > 104 and len(start) > 104:
            compression = start[104]
    extensions = extensions_of(
        start, path, header_bytes, min(1 << cluster_bits, backing_offset or 1 << 21)
    )
    if encryption or Extension.ENCRYPTION in extensions:
        raise UnsupportedImageError(
            f"{path} is encrypted ({_ENCRYPTIONS.get(encryption, encryption)}), which Hatchway "
            "cannot read; write it anew without: qemu-img convert --image-opts (see its manual)",
            path=path,
            offset=32,
        )
    unknown = incompatible & ~KNOWN_FEATURES
    if unknown:
        raise UnsupportedImageError(
            f"{path} needs {_named(unknown, extensions)}, which Hatchway does not know",
            path=path,
            offset=72,
        )
    if compression not in COMPRESSIONS:
        raise UnsupportedImageError(
            f"{path} is compressed in a way (type {compression}) that Hatchway does not know; "
            "zlib and zstd can be read",
            path=path,
            offset=104,
        )
    if refcount_order > 6:
        raise CorruptImageError(
            f"{path} has refcounts of 2**{refcount_order} bits; at most 2**6 are possible",
            path=path,
            offset=96,
        )
    header = Header(
        version=version,
        cluster_bits=cluster_bits,
        size=size,
        l1_size=l1_size,
        l1_offset=l1_offset,
        refcount_table_offset=refcount_offset,
        refcount_table_clusters=refcount_clusters,
        refcount_order=refcount_order,
        num_snapshots=num_snapshots,
        snapshots_offset=snapshots_offset,
        incompatible=incompatible,
        compatible=compatible,
        autoclear=autoclear,
        compression=COMPRESSIONS[compression],
        backing_name=_backing_name(start, path, backing_offset, backing_bytes),
        backing_format=_text(extensions.get(Extension.BACKING_FORMAT), path),
        data_file_name=_text(extensions.get(Extension.DATA_FILE), path),
        bitmaps=_bitmaps(
            extensions.get(Extension.BITMAPS), path, holds=bool(autoclear & AUTOCLEAR_BITMAPS)
        ),
    )
    if header.has_subclusters and cluster_bits < 14:
        raise CorruptImageError(
            f"{path} has subclusters in clusters of {1 << cluster_bits} bytes; they need 16 KiB",
            path=path,
            offset=20,
        )
    if size >= 1 << 63:
        raise CorruptImageError(f"{path} has a disk of {size} bytes", path=path, offset=24)
    check_table(header, path, file_bytes, l1_offset, l1_size, size)
    return header


def check_table(
    header: Header, path: Path, file_bytes: int, l1_offset: int, l1_size: int, size: int
) -> None:
    """Check that an L1 table lies in the file, and covers the disk.

    Args:
        header: Of the file.
        path: Of the file.
        file_bytes: Its size.
        l1_offset: Where the table lies.
        l1_size: Its entries.
        size: The disk that it is the table of, in bytes.

    Raises:
        CorruptImageError: If not.
    """
    covered = l1_size << (2 * header.cluster_bits - (4 if header.has_subclusters else 3))
    if l1_size * 8 > MAX_L1_BYTES:
        raise CorruptImageError(
            f"the L1 table of {path} has {l1_size} entries; {MAX_L1_BYTES // 8} are possible",
            path=path,
            offset=36,
        )
    if covered < size:
        raise CorruptImageError(
            f"the L1 table of {path} has {l1_size} entries, too few for a disk of {size} bytes",
            path=path,
            offset=36,
        )
    if l1_size and (l1_offset % header.cluster_size or l1_offset + l1_size * 8 > file_bytes):
        raise CorruptImageError(
            f"the L1 table of {path} is said to lie at {l1_offset:#x}, which is not at a cluster "
            f"of the file ({file_bytes} bytes)",
            path=path,
            offset=40,
        )


def extensions_of(start: bytes, path: Path, begin: int, end: int) -> dict[int, bytes]:
    """The header extensions of a file, by their kinds, in its order.

    Args:
        start: The first bytes of the file.
        path: For messages.
        begin: Where they begin.
        end: Where they end at the latest.

    Raises:
        CorruptImageError: If one is longer than the header.
        CutHeaderError: If there may be more of them in the file than was given.
    """
    return {kind: start[at:stop] for kind, at, stop in _extensions(start, path, begin, end)}


def extension_at(start: bytes, path: Path, header: Header, kind: int) -> int | None:
    """Where the data of a header extension lie in the file; None if there is none of its kind.

    Args:
        start: The first cluster of the file.
        path: For messages.
        header: What it says.
        kind: See :class:`Extension`.
    """
    found = _extensions(start, path, *extensions_place(start, header))
    return {other: at for other, at, _ in found}.get(kind)


def extensions_place(start: bytes, header: Header) -> tuple[int, int]:
    """Where the extensions of a file begin, and where they end at the latest."""
    begin = BASE.size
    if header.version == 3:
        begin = VERSION_3.unpack_from(start, BASE.size)[-1]
    return begin, min(header.cluster_size, BASE.unpack_from(start)[2] or 1 << 21)


def _extensions(start: bytes, path: Path, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The kind of each extension, where its data begin, and where they end."""
    at = begin
    while at < end:
        if at + EXTENSION.size > len(start):
            raise _cut(start, path)
        kind, length = EXTENSION.unpack_from(start, at)
        if kind == 0:
            break
        at += EXTENSION.size
        if at + length > end:
            raise CorruptImageError(
                f"a header extension of {path} ({kind:#x}) is longer than the header",
                path=path,
                offset=at - 4,
            )
        if at + length > len(start):
            raise _cut(start, path)
        yield kind, at, at + length
        at += (length + 7) & ~7


def _cut(start: bytes, path: Path) -> CutHeaderError:
    return CutHeaderError(
        f"the header of {path} goes on past its first {len(start)} bytes",
        path=path,
        offset=len(start),
    )


def _named(bits: int, extensions: dict[int, bytes]) -> str:
    """Features by the names that the file gives them."""
    table = extensions.get(Extension.FEATURE_NAMES, b"")
    names = {
        table[at + 1]: table[at + 2 : at + 48].rstrip(b"\0").decode("ascii", "replace")
        for at in range(0, len(table) - 47, 48)
        if table[at] == 0
    }
    missing = [bit for bit in range(64) if bits >> bit & 1]
    return ", ".join(repr(names[bit]) if bit in names else f"feature {bit}" for bit in missing)


def _backing_name(start: bytes, path: Path, offset: int, length: int) -> str | None:
    if not offset:
        return None
    if length > MAX_BACKING_NAME_BYTES:
        raise CorruptImageError(
            f"the backing file's name in {path} is said to have {length} bytes; "
            f"{MAX_BACKING_NAME_BYTES} are possible",
            path=path,
            offset=16,
        )
    if offset + length > len(start):
        raise _cut(start, path)
    return _text(start[offset : offset + length], path) or None


def _bitmaps(raw: bytes | None, path: Path, *, holds: bool) -> tuple[int, int, int] | None:
    if raw is None or not holds:
        return None
    if len(raw) != _BITMAPS_FIELDS.size:
        raise CorruptImageError(
            f"the header extension of {path} that names its bitmaps has {len(raw)} bytes instead "
            f"of {_BITMAPS_FIELDS.size}",
            path=path,
        )
    number, num_bytes, offset = _BITMAPS_FIELDS.unpack(raw)
    return number, num_bytes, offset


def _text(raw: bytes | None, path: Path) -> str | None:
    if raw is None:
        return None
    if b"\0" in raw:
        raise CorruptImageError(f"a name in the header of {path} holds a NUL byte", path=path)
    return raw.decode("utf-8", "surrogateescape")
