"""Volumes of the KiTS19 sizes, cut out of real scans and kept in a folder for the workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hatchway.cli.demo.shapes import Case, Shape
from hatchway.cli.demo.sources import Source

Array = npt.NDArray[Any]
BYTES_PER_VOXEL = 3  # int16 image and uint8 label


@dataclass(frozen=True)
class Scan:
    """A real scan on disk, large enough for every case to be cut from it.

    Attributes:
        image_path: int16 intensities (slices, height, width), as ``.npy``.
        label_path: uint8 classes of the same shape: 0 background, 1 and 2 foreground.
        mean: Mean intensity, for normalising.
        std: Standard deviation of the intensity.
    """

    image_path: Path
    label_path: Path
    mean: float
    std: float


@dataclass(frozen=True)
class Cut:
    """Where a case lies: which scan, and the corner of its box there."""

    case: Case
    scan: int
    corner: Shape

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The case's voxels within its scan."""
        z, y, x = (
            slice(low, low + length)
            for low, length in zip(self.corner, self.case.shape, strict=True)
        )
        return z, y, x


def enclosing_shape(cases: Sequence[Case]) -> Shape:
    """Return the smallest shape that holds each of ``cases``."""
    slices, height, width = (
        max(lengths) for lengths in zip(*(case.shape for case in cases), strict=True)
    )
    return slices, height, width


def cut_cases(cases: Sequence[Case], scan_shape: Shape, num_scans: int, seed: int) -> list[Cut]:
    """Place each case somewhere in a scan; the scans take turns.

    Raises:
        ValueError: If a case is larger than ``scan_shape``.
    """
    draws = np.random.default_rng(seed)
    cuts = []
    for i, case in enumerate(cases):
        room = [whole - part for whole, part in zip(scan_shape, case.shape, strict=True)]
        if min(room) < 0:
            raise ValueError(f"{case.name} {case.shape} does not fit into a scan of {scan_shape}")
        z, y, x = (int(draws.integers(0, free + 1)) for free in room)
        cuts.append(Cut(case, i % num_scans, (z, y, x)))
    return cuts


def write_scans(sources: Sequence[Source], scan_shape: Shape, folder: Path) -> Iterator[Scan]:
    """Mirror each source until it fills ``scan_shape``, label it, and write both to ``folder``.

    The label is Otsu's: two thresholds part the intensities into background and two classes of
    foreground, as KiTS19 tells kidney from tumour.
    """
    from skimage.filters import threshold_multiotsu

    for number, source in enumerate(sources):
        label = np.digitize(source.voxels, threshold_multiotsu(source.voxels, classes=3))
        yield Scan(
            _write_mirrored(
                np.rint(source.voxels).astype(np.int16), scan_shape, folder / f"image-{number}.npy"
            ),
            _write_mirrored(label.astype(np.uint8), scan_shape, folder / f"label-{number}.npy"),
            mean=float(source.voxels.mean()),
            std=float(source.voxels.std()),
        )


def mirrored(length: int, count: int) -> npt.NDArray[np.intp]:
    """Return ``count`` indices into an axis of ``length``, going to and fro: 0 1 2 2 1 0 0 1."""
    to_and_fro = np.arange(count) % (2 * length)
    return np.minimum(to_and_fro, 2 * length - 1 - to_and_fro)


def _write_mirrored(voxels: Array, shape: Shape, path: Path) -> Path:
    whole = np.lib.format.open_memmap(path, mode="w+", dtype=voxels.dtype, shape=shape)
    slices, height, width = map(mirrored, voxels.shape, shape)
    for z, source_z in enumerate(slices):
        whole[z] = voxels[source_z][np.ix_(height, width)]
    return path
