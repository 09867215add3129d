"""What an index knows of each layer: which file it was, in what state, and what it says."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from hatchway.disk.files import Identity
from hatchway.disk.image import Image

# Two files that were written within this time may have the same time stamp: some file systems
# count in steps of two seconds.
_STAMP_NS = 2_000_000_000

_RECORD = struct.Struct("<QQQqqq16sQQQQIHBBBxHH2x")
_FORMATS: tuple[Literal["raw", "qcow2"], ...] = ("raw", "qcow2")
_COMPRESSIONS = ("zlib", "zstd")
# Of one commit: what a reader takes into memory of a file that says anything.
MAX_RECORDS_BYTES = 64 << 20


class LayerRecord(NamedTuple):
    """A layer, as it was when it was indexed.

    Attributes:
        identity: Of its file.
        indexed_ns: When, by the clock of the file system, before its tables were read.
        digest: Of its first bytes and its L2 entries.
        size: The guest's disk, in bytes.
        incompatible: Feature bits of a qcow2 file.
        compatible: Feature bits of a qcow2 file.
        l1_offset: Where its active L1 table lies.
        l1_size: Entries of that.
        version: Of the qcow2 format; 0 of a raw file.
        cluster_bits: Binary logarithm of the cluster size; 0 of a raw file.
        format: What it is.
        compression: Of its compressed clusters.
        name: Its path, relative to the index's directory if it lies there.
        data_name: The path of its external data file, likewise; None without one.
    """

    identity: Identity
    indexed_ns: int
    digest: bytes
    size: int
    incompatible: int
    compatible: int
    l1_offset: int
    l1_size: int
    version: int
    cluster_bits: int
    format: Literal["raw", "qcow2"]
    compression: str
    name: str
    data_name: str | None

    @property
    def is_settled(self) -> bool:
        """Whether each later change of the file gives it other time stamps than it had.

        A file that was changed just before it was indexed may be changed once more within the
        same tick of the clock.
        """
        _, _, _, modified_ns, changed_ns = self.identity
        return max(modified_ns, changed_ns) < self.indexed_ns - _STAMP_NS

    def proves(self, identity: Identity) -> bool:
        """Whether a file of this identity holds what was indexed."""
        return identity == self.identity and self.is_settled


def record_of(image: Image, digest: bytes, indexed_ns: int, directory: str) -> LayerRecord:
    """The record of a layer.

    Args:
        image: The layer.
        digest: Of its tables.
        indexed_ns: When it was opened, or later, and before its tables were read.
        directory: The index's, absolute.
    """
    header = image.header
    has_data_file = image.data is not image.file
    return LayerRecord(
        identity=image.file.identity,
        indexed_ns=indexed_ns,
        digest=digest,
        size=image.size,
        incompatible=0 if header is None else header.incompatible,
        compatible=0 if header is None else header.compatible,
        l1_offset=0 if header is None else header.l1_offset,
        l1_size=0 if header is None else header.l1_size,
        version=0 if header is None else header.version,
        cluster_bits=0 if header is None else header.cluster_bits,
        format=image.format,
        compression="zlib" if header is None else header.compression,
        name=recorded_name(image.path, directory),
        data_name=recorded_name(image.data.path, directory) if has_data_file else None,
    )


def recorded_name(path: Path | str, directory: str) -> str:
    """A path as an index in ``directory`` has it: a directory that is moved takes it along.

    Args:
        path: The path.
        directory: Absolute; ``Path`` would take as long as reading the tables of a layer does.
    """
    return os.path.abspath(path).removeprefix(directory.rstrip("/") + "/")


def name_hash(name: str) -> bytes:
    """By which a commit is found."""
    # It brings a library of 4 MiB, which nobody needs without an index.
    from hashlib import blake2b

    return blake2b(os.fsencode(name), digest_size=8).digest()


def records_bytes(records: Sequence[LayerRecord]) -> bytes:
    """The records of layers, as a commit holds them."""
    parts = []
    for one in records:
        name = os.fsencode(one.name)
        data_name = b"" if one.data_name is None else os.fsencode(one.data_name)
        parts.append(
            _RECORD.pack(
                *one.identity,
                one.indexed_ns,
                one.digest,
                one.size,
                one.incompatible,
                one.compatible,
                one.l1_offset,
                one.l1_size,
                one.version,
                one.cluster_bits,
                _FORMATS.index(one.format),
                _COMPRESSIONS.index(one.compression),
                len(name),
                len(data_name),
            )
            + name
            + data_name
        )
    return b"".join(parts)


def parse_records(raw: bytes, count: int) -> list[LayerRecord] | None:
    """The records of layers; None if they are not ``count`` whole ones."""
    found = []
    at, unpack, fixed = 0, _RECORD.unpack_from, _RECORD.size
    try:
        for _ in range(count):
            fields = unpack(raw, at)
            names = at + fixed
            data_names = names + fields[16]
            at = data_names + fields[17]
            found.append(
                LayerRecord._make(
                    (
                        Identity._make(fields[:5]),
                        *fields[5:14],
                        _FORMATS[fields[14]],
                        _COMPRESSIONS[fields[15]],
                        os.fsdecode(raw[names:data_names]),
                        os.fsdecode(raw[data_names:at]) if fields[17] else None,
                    )
                )
            )
    except (struct.error, IndexError):
        return None
    return found if at == len(raw) else None
