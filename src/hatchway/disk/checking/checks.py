"""Checking a qcow2 file, and every file of a chain."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hatchway.disk.checking.findings import Report
from hatchway.disk.checking.repair import (
    WritableFile,
    forget_unknown,
    repair_flags,
    repair_header,
    repair_refcounts,
)
from hatchway.disk.checking.survey import OnProgress, Survey
from hatchway.disk.checking.tables import OnFlags
from hatchway.disk.errors import BackingFileError, ImageError
from hatchway.disk.files import Descriptors, open_to_read
from hatchway.disk.image import Image
from hatchway.disk.layers import backing_of
from hatchway.disk.locks import lock_to_read, lock_to_write
from hatchway.disk.naming import Allowed

_MOST_BYTES = 1 << 30
_MOST_FINDINGS = 100


def check(
    path: str | os.PathLike[str],
    *,
    repair: Literal["leaks", "all"] | None = None,
    lock: bool = True,
    most_findings: int = _MOST_FINDINGS,
    most_bytes: int = _MOST_BYTES,
    progress: OnProgress | None = None,
) -> Report:
    """Compare the refcounts of a qcow2 file with all that refers to its clusters.

    Finds what ``qemu-img check`` finds, and clusters of metadata that something else refers to.
    A repair changes refcounts, copied flags and bits of the header, never where anything lies:
    the disk holds the same bytes. Wherever it is cut short, the file is no worse than it was.
    Where a table is so damaged that references may be missing, no refcount is lowered and no
    copied flag is set.

    Args:
        path: The file.
        repair: ``"leaks"`` to lower refcounts that are too high; ``"all"`` also to raise those
            that are too low, to set copied flags right, and, of a file that then is clean, to
            take back that it is dirty or corrupt. None to write nothing.
        lock: Whether the file is locked; a repair always locks it.
        most_findings: How many findings are kept; all are counted.
        most_bytes: What the counts may take: 3 bytes for each cluster of the file, more where
            one has more than 255 references. A repair counts twice, and takes twice that.
        progress: Told of the tables that were followed, and how many there are.

    Returns:
        What is wrong with the file now.

    Raises:
        ValueError: If ``repair`` is neither.
        ImageError: If the file cannot be checked, or is held by another program.
    """
    if repair not in (None, "leaks", "all"):
        raise ValueError(f"repair must be 'leaks', 'all' or None, not {repair!r}")
    place = Path(path).absolute()
    bounds = _Bounds(most_findings, most_bytes, progress)
    if repair is None:
        image = Image(place, Descriptors(), "qcow2")
        try:
            if lock and image.file.fd >= 0:
                lock_to_read(image.file.fd, place)
            return bounds.survey(image).report()
        finally:
            image.close()
    fd = _open_to_write(place)
    try:
        lock_to_write(fd, place)
        return _repaired(WritableFile(fd, place), bounds, leaks_only=repair == "leaks")
    finally:
        os.close(fd)


def check_chain(
    path: str | os.PathLike[str],
    *,
    allow_backing: bool | Sequence[str | os.PathLike[str]] = False,
    repair: Literal["leaks", "all"] | None = None,
    lock: bool = True,
    most_findings: int = _MOST_FINDINGS,
    most_bytes: int = _MOST_BYTES,
    progress: OnProgress | None = None,
) -> Iterator[Report]:
    """Check every qcow2 file of a chain, the active one first.

    Args:
        path: The active image.
        allow_backing: As in :class:`~hatchway.disk.Chain`.
        repair: As in :func:`check`.
        lock: As in :func:`check`.
        most_findings: As in :func:`check`.
        most_bytes: As in :func:`check`.
        progress: As in :func:`check`.

    Yields:
        What :func:`check` says of each. A raw file has nothing to be checked, and is left out.

    Raises:
        ImageError: If a file cannot be checked, or must not be opened, or is below itself.
    """
    top = Path(path).absolute()
    allowed = Allowed(top, allow_backing)
    place: Path | None = top
    seen: set[tuple[int, int]] = set()
    while place is not None:
        image = Image(place, Descriptors())
        try:
            identity = image.file.identity[:2]
            below, _ = backing_of(image, allowed)
            is_raw = image.header is None
        finally:
            image.close()
        if identity in seen:
            raise BackingFileError(f"{place} lies below itself in the chain of {top}", path=place)
        seen.add(identity)
        if is_raw:
            return
        yield check(
            place,
            repair=repair,
            lock=lock,
            most_findings=most_findings,
            most_bytes=most_bytes,
            progress=progress,
        )
        place = below


class _Bounds(NamedTuple):
    """What a survey may keep, and whom it tells."""

    most_findings: int
    most_bytes: int
    progress: OnProgress | None

    def survey(self, image: Image, on_flags: OnFlags | None = None) -> Survey:
        return Survey(
            image,
            most_findings=self.most_findings,
            most_bytes=self.most_bytes,
            progress=self.progress,
            on_flags=on_flags,
        )


def _repaired(file: WritableFile, bounds: _Bounds, *, leaks_only: bool) -> Report:
    """Repair a file that is locked, and say what is wrong with it then."""
    image = Image(file.path, Descriptors(), "qcow2")
    try:
        first = bounds.survey(image)
        before = first.report()
        assert image.header is not None
        if not before.is_clean:
            forget_unknown(file, image.header)
            repair_refcounts(file, first, leaks_only=leaks_only)
    finally:
        image.close()
    num_written = 0

    def write_flags(places: NDArray[np.int64], values: NDArray[np.uint64]) -> None:
        nonlocal num_written
        num_written += repair_flags(file, first, places, values, leaks_only=leaks_only)

    # Opened anew: the refcounts, and the file's size, may be others now.
    image = Image(file.path, Descriptors(), "qcow2")
    try:
        after = before
        if not before.is_clean:
            after = bounds.survey(image, write_flags).report()
        if num_written:
            file.sync()
            after = bounds.survey(image).report()
        assert image.header is not None
        if after.is_clean and not leaks_only:
            repair_header(file, image.header)
            after = replace(after, is_dirty=False, is_marked_corrupt=False)
        return replace(
            after,
            leaks_fixed=max(0, before.leaks - after.leaks),
            corruptions_fixed=max(0, before.corruptions - after.corruptions),
        )
    finally:
        image.close()


def _open_to_write(path: Path) -> int:
    # A pipe would block here, and no device but a block device is an image.
    os.close(open_to_read(path))
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ImageError(
            f"{path} cannot be opened to be repaired: {error.strerror}", path=path
        ) from error
