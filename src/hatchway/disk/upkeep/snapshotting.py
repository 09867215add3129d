"""Freezing the active image under a new one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from hatchway.disk.files import Descriptors
from hatchway.disk.image import Image
from hatchway.disk.index import build
from hatchway.disk.locks import lock_to_read
from hatchway.disk.overlays import Overlay, empty_overlay, has_index
from hatchway.disk.upkeep.opening import Allowing, Opened, Progress, nobody


def snapshot(
    path: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    index: bool | None = None,
    image_format: Literal["qcow2", "raw"] | None = None,
    cluster_size: int | None = None,
    extended_l2: bool | None = None,
    compression: Literal["zlib", "zstd"] = "zlib",
    refcount_bits: int = 16,
    allow_backing: Allowing = False,
    progress: Progress = nobody,
) -> Overlay:
    """Make an empty overlay of the active image, which from then on is not written to.

    The overlay is there whole and synced when this returns, or not at all. No program may write
    to the old image meanwhile; virtual machines make their snapshots themselves. Without an
    index it costs the same whatever lies below.

    Args:
        path: The active image.
        new: The overlay.
        index: Whether the chain up to and including the old image gets a stored index; None if
            what lies below that image has one, which is carried forward.
        image_format: Of the old image; None to look, which a guest's raw disk can lead astray.
        cluster_size: Of the overlay, in bytes; None for that of the old one.
        extended_l2: Whether it has subclusters; None if the old one has.
        compression: As in :func:`~hatchway.disk.active.create`.
        refcount_bits: As there.
        allow_backing: As in :class:`~hatchway.disk.Chain`; for the index.
        progress: Called as the index is built, with how much is done, and of how much.

    Raises:
        ValueError: If an argument is none that ``create`` takes.
        LockedImageError: If another program writes to the old image.
        ImageError: If that cannot be read, there is a file of the new name, or the index cannot
            be built. There is no overlay then.
    """
    top = Path(path).absolute()
    descriptors = Descriptors()
    image = Image(top, descriptors, image_format)
    try:
        if image.file.fd >= 0:
            lock_to_read(image.file.fd, top)
        made = empty_overlay(
            image,
            Path(new).absolute(),
            cluster_size=cluster_size,
            extended_l2=extended_l2,
            compression=compression,
            refcount_bits=refcount_bits,
        )
        try:
            if index or (index is None and has_index(image)):
                with Opened(
                    top,
                    image_format=image.format,
                    allow_backing=allow_backing,
                    use_index=True,
                ) as opened:
                    opened.hold(opened.images)
                    made = made._replace(built=build(opened.images, progress=progress))
        except BaseException:
            made.path.unlink()
            raise
        return made
    finally:
        image.close()
        descriptors.close()
