"""The empty image above one that is frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from hatchway.disk.active.creation import create
from hatchway.disk.errors import ImageError
from hatchway.disk.image import Image
from hatchway.disk.index import Built, sidecar_of
from hatchway.disk.naming import name_of, path_of

_DEFAULT_CLUSTER_SIZE = 65536
_LEAST_WITH_SUBCLUSTERS = 16384
_SECTOR = 512


class Overlay(NamedTuple):
    """What a snapshot made.

    Attributes:
        path: The new active image.
        backing_name: How it names the old one.
        backing_format: What that is.
        size: Bytes of the disk.
        built: The stored index that the old one has now; None if there is none.
        index_error: Why there is none, of a chain that was open: the overlay is in use then.
    """

    path: Path
    backing_name: str
    backing_format: str
    size: int
    built: Built | None = None
    index_error: ImageError | None = None


def empty_overlay(
    image: Image,
    path: Path,
    *,
    cluster_size: int | None,
    extended_l2: bool | None,
    compression: Literal["zlib", "zstd"],
    refcount_bits: int,
) -> Overlay:
    """Make the file of an overlay, as :func:`hatchway.disk.snapshot` does; without an index.

    Args:
        image: What lies below it.
        path: Of the overlay, absolute.
        cluster_size: As there.
        extended_l2: As there.
        compression: As there.
        refcount_bits: As there.

    Raises:
        ValueError: As there.
        ImageError: As there.
    """
    header = image.header
    if cluster_size is None:
        cluster_size = _DEFAULT_CLUSTER_SIZE if header is None else header.cluster_size
    if extended_l2 is None:
        is_possible = cluster_size >= _LEAST_WITH_SUBCLUSTERS
        extended_l2 = header is not None and header.has_subclusters and is_possible
    size, name = -(-image.size // _SECTOR) * _SECTOR, name_of(image.path, path)
    create(
        path,
        size,
        backing=name,
        backing_format=image.format,
        cluster_size=cluster_size,
        extended_l2=extended_l2,
        compression=compression,
        refcount_bits=refcount_bits,
    )
    return Overlay(path, name, image.format, size)


def has_index(image: Image) -> bool:
    """Whether an image, or the one below it, has a stored index."""
    header = image.header
    if header is None or header.backing_name is None:
        return sidecar_of(image.path).exists()
    below = path_of(header.backing_name, image.path, "backing file")
    return sidecar_of(image.path).exists() or sidecar_of(below).exists()
