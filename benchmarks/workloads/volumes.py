"""3-D volumes on the CPU: the crop and flips of MLPerf's 3D-UNet on KiTS19's sizes.

The volumes' sizes are KiTS19's, resampled to one voxel spacing as that
benchmark does; the voxels are made up.
Costs are skewed for the reason they are there: a share of the samples looks
for foreground through the whole volume, and volumes differ tenfold.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.workloads.spec import IndexedDataset, Sample, Scale, Workload
from hatchway.cli import demo

SHAPES = Path(demo.__file__).parent / "data" / "kits19-shapes.csv"
CROP = 128
SPACING_MM = (1.6, 1.2, 1.2)
FOREGROUND_SHARE = 0.4
FLIP_SHARE = 1 / 3
NOISE_SHARE = 0.1
_NUM_OFFSETS = 64

Shape3 = tuple[int, int, int]


def resampled_shapes(path: Path = SHAPES) -> list[Shape3]:
    """Read the volumes' shapes at the benchmark's voxel spacing; no axis is below the crop's."""
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    axes = (("slices", "slice_mm"), ("height", "row_mm"), ("width", "col_mm"))
    return [
        tuple(  # type: ignore[misc]  # three axes
            max(CROP, round(int(row[size]) * float(row[mm]) / target_mm))
            for (size, mm), target_mm in zip(axes, SPACING_MM, strict=True)
        )
        for row in rows
    ]


class VolumesDataset(IndexedDataset):
    """Crops of ``CROP`` cubed, float32, one channel.

    All volumes are views of one body, so that the dataset takes 0.3 GiB
    instead of gigabytes. What a sample contains and costs depends on (seed,
    index) alone.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        shapes = resampled_shapes()
        self._shapes = [shapes[i % len(shapes)] for i in range(num_samples)]
        self._seed = seed
        depth, height, width = (max(axis) for axis in zip(*shapes, strict=True))
        depth += _NUM_OFFSETS
        rng = np.random.default_rng(seed)
        self._image = rng.integers(-1000, 1000, (depth, height, width), dtype=np.int16)
        self._label = _kidneys(depth, height, width)

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self._seed, index))
        d, h, w = self._shapes[index]
        first = index % _NUM_OFFSETS
        view = (slice(first, first + d), slice(h), slice(w))
        corner = _corner(self._label[view], rng)
        crop = self._image[view][tuple(slice(c, c + CROP) for c in corner)].astype(np.float32)
        for axis in range(3):
            if rng.random() < FLIP_SHARE:
                crop = np.flip(crop, axis)
        if rng.random() < NOISE_SHARE:
            crop = crop + rng.standard_normal(crop.shape, dtype=np.float32)
        crop = (crop - crop.mean()) / crop.std()
        return torch.from_numpy(np.ascontiguousarray(crop)[None]), index


def _kidneys(depth: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Two columns of foreground (class 1), swelling along the slices, with cores (class 2)."""
    z, y, x = np.ogrid[:depth, :height, :width]
    radius = 14 + 8 * np.sin(z / 9)
    label = np.zeros((depth, height, width), dtype=np.uint8)
    for centre in (CROP // 2 - 28, CROP // 2 + 28):
        distance = np.hypot(y - CROP // 2, x - centre)
        label[distance < radius] = 1
        label[distance < radius - 16] = 2
    return label


def _corner(label: npt.NDArray[np.uint8], rng: np.random.Generator) -> list[int]:
    """Choose the crop's first voxel: anywhere, or around a foreground voxel found by search."""
    highest = [size - CROP for size in label.shape]
    if rng.random() >= FOREGROUND_SHARE:
        return [int(rng.integers(0, high + 1)) for high in highest]
    found = np.nonzero(label == rng.integers(1, 3))
    chosen = int(rng.integers(0, len(found[0])))
    return [
        min(max(0, int(axis[chosen]) - CROP // 2), high)
        for axis, high in zip(found, highest, strict=True)
    ]


def _build(scale: Scale) -> IndexedDataset:
    return VolumesDataset(scale.num_samples, scale.seed)


VOLUMES = Workload(
    name="volumes",
    title=f"3-D volumes on CPU, 1x{CROP}x{CROP}x{CROP} float32, 2 workers, batch 2",
    build=_build,
    batch_size=2,
    num_workers=2,
    num_batches={"full": 80, "short": 72, "quick": 4},
    parameters={
        "sizes": "KiTS19 (210 volumes)",
        "spacing_mm": SPACING_MM,
        "shape": (1, CROP, CROP, CROP),
        "foreground_share": FOREGROUND_SHARE,
        "noise_share": NOISE_SHARE,
    },
)
