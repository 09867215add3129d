"""Small chains of qcow2 files, made without QEMU: a header, a refcount block, tables."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

CLUSTER = 512
PER_TABLE = CLUSTER // 8


def write_image(
    path: Path, clusters: Mapping[int, int], num_clusters: int, below: Path | None
) -> None:
    """A file of version 3 with clusters of 512 bytes.

    Args:
        path: Of the file.
        clusters: The L2 entry of each cluster that has one, by number.
        num_clusters: Of the disk.
        below: Its backing file, in the same directory.
    """
    num_tables = -(-num_clusters // PER_TABLE)
    l1_clusters = -(-num_tables * 8 // CLUSTER)
    name = b"" if below is None else below.name.encode()
    image = bytearray(CLUSTER * (3 + l1_clusters))
    backing = (0, 0) if below is None else (112, len(name))
    size = num_clusters * CLUSTER
    struct.pack_into(
        ">4sIQIIQIIQQIIQ", image, 0, b"QFI\xfb", 3, *backing, 9, size, 0, num_tables,
        CLUSTER * 3, CLUSTER, 1, 0, 0,
    )  # fmt: skip
    struct.pack_into(">QQQII", image, 72, 0, 0, 0, 4, 104)
    image[112 : 112 + len(name)] = name
    for table in sorted({cluster // PER_TABLE for cluster in clusters}):
        struct.pack_into(">Q", image, CLUSTER * 3 + table * 8, 1 << 63 | len(image))
        entries = [clusters.get(table * PER_TABLE + rank, 0) for rank in range(PER_TABLE)]
        image += struct.pack(f">{PER_TABLE}Q", *entries)
    path.write_bytes(image)


def write_chain(
    directory: Path, layers: Sequence[Mapping[int, int]], num_clusters: int
) -> list[Path]:
    """Files over each other, the base first."""
    paths: list[Path] = []
    for number, clusters in enumerate(layers):
        paths.append(directory / f"{number}.qcow2")
        write_image(paths[-1], clusters, num_clusters, paths[-2] if number else None)
    return paths
