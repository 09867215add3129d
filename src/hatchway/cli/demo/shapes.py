"""The sizes of the 210 KiTS19 training volumes, as the 3-D U-Net benchmark sees them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TypeVar

# MLPerf's U-Net resamples every scan to this spacing before training.
COMMON_SPACING_MM = (1.6, 1.2, 1.2)
Shape = tuple[int, int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """One scan: its name and its shape in voxels (slices, height, width)."""

    name: str
    shape: Shape

    @property
    def num_voxels(self) -> int:
        """Voxels of the whole scan."""
        slices, height, width = self.shape
        return slices * height * width


def read_cases(scale: float) -> list[Case]:
    """Read the recorded shapes, resampled to the common spacing and scaled along each axis.

    Args:
        scale: Factor for each axis; 1.0 gives the sizes that MLPerf trains on.

    Raises:
        ValueError: If ``scale`` is not positive.
    """
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    table = files("hatchway.cli.demo") / "data" / "kits19-shapes.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    return [_case(row, scale) for row in csv.DictReader(lines)]


def spread_over_sizes(cases: list[Case], count: int) -> list[Case]:
    """Choose ``count`` cases whose sizes are spread as those of all ``cases`` are."""
    return spread(sorted(cases, key=lambda case: (case.num_voxels, case.name)), count)


def spread(ordered: Sequence[T], count: int) -> list[T]:
    """Choose ``count`` items at even distances, none of them twice; all if there are fewer."""
    count = min(count, len(ordered))
    return [ordered[(2 * i + 1) * len(ordered) // (2 * count)] for i in range(count)]


def _case(row: dict[str, str], scale: float) -> Case:
    voxels = (int(row["slices"]), int(row["height"]), int(row["width"]))
    spacing_mm = (float(row["slice_mm"]), float(row["row_mm"]), float(row["col_mm"]))
    slices, height, width = (
        max(1, round(scale * count * mm / common_mm))
        for count, mm, common_mm in zip(voxels, spacing_mm, COMMON_SPACING_MM, strict=True)
    )
    return Case(row["case"], (slices, height, width))
