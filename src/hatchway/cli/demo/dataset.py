"""The dataset that every loader reads: a case's number in, a preprocessed crop out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hatchway.cli.demo.preprocessing import RandomBalancedCrop, preprocess
from hatchway.cli.demo.shapes import spread
from hatchway.cli.demo.volumes import Cut, Scan

Array = npt.NDArray[Any]
Sample = tuple[Array, Array, int]


class SegmentationVolumes:
    """Map-style dataset of scans: ``dataset[i]`` is the image, the label and ``i`` itself.

    The image is float32, the label uint8, both of shape ``(1, *crop.shape)``. Each call maps the
    scan's file anew, so a sample pays for reading what it needs.

    The draws of case ``i`` are seeded from ``(seed, epoch, i)``. Hatchway would do that by itself;
    stock torch seeds a worker, not a sample, and the loaders compared here must do the same work.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        cuts: Sequence[Cut],
        crop: RandomBalancedCrop,
        *,
        seed: int,
        epoch: int = 0,
    ) -> None:
        self._scans = tuple(scans)
        self._cuts = tuple(cuts)
        self._crop = crop
        self._seed = seed
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self._cuts)

    def __getitem__(self, case: int) -> Sample:
        """Read and preprocess one case."""
        return self.sample(case, self._crop)

    def spread(self, count: int) -> SegmentationVolumes:
        """Return ``count`` of the cases, their sizes spread as those of all are."""
        chosen = sorted(self.indices_by_size(count))
        cuts = [self._cuts[i] for i in chosen]
        return SegmentationVolumes(
            self._scans, cuts, self._crop, seed=self._seed, epoch=self._epoch
        )

    def indices_by_size(self, count: int) -> list[int]:
        """Choose the numbers of ``count`` cases, from small to large, spread over the sizes."""
        by_size = sorted(range(len(self)), key=lambda i: self._cuts[i].case.num_voxels)
        return spread(by_size, count)

    def at_epoch(self, epoch: int) -> SegmentationVolumes:
        """Return the same cases with another epoch's draws."""
        return SegmentationVolumes(
            self._scans, self._cuts, self._crop, seed=self._seed, epoch=epoch
        )

    def sample(self, case: int, crop: RandomBalancedCrop) -> Sample:
        """Preprocess one case with another way of cropping than the dataset's own."""
        np.random.seed([self._seed, self._epoch, case])
        cut = self._cuts[case]
        scan = self._scans[cut.scan]
        image = np.load(scan.image_path, mmap_mode="r")[cut.box]
        label = np.load(scan.label_path, mmap_mode="r")[cut.box]
        return (*preprocess(image, label, crop=crop, mean=scan.mean, std=scan.std), case)

    def seconds(self, case: int, *, oversampled: bool) -> float:
        """Time one sample of ``case``, cut around foreground or anywhere."""
        started_s = time.perf_counter()
        self.sample(case, replace(self._crop, oversampling=1.0 if oversampled else 0.0))
        return time.perf_counter() - started_s

    @property
    def oversampling(self) -> float:
        """Share of the samples that are cut around foreground."""
        return self._crop.oversampling
