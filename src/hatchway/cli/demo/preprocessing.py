"""The augmentations of MLPerf's 3-D U-Net training, written anew from their description.

Every random choice comes from NumPy's global generator, as in the benchmark: what a sample
contains follows from how the data loader seeds that generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hatchway.cli.demo.shapes import Shape

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class RandomBalancedCrop:
    """Cut a box of ``shape``: mostly anywhere, in a share of cases around foreground.

    Looking for foreground is what makes some samples slow: it reads the whole label and finds the
    connected components of a class, while a box cut anywhere reads only its own voxels.

    Attributes:
        shape: The box (slices, height, width); a smaller volume is padded with zeros.
        oversampling: Probability of a box around foreground.
    """

    shape: Shape
    oversampling: float = 0.4

    def __call__(self, image: Array, label: Array) -> tuple[Array, Array]:
        """Return the box of image and label; both may be memory-mapped."""
        around_foreground = np.random.random_sample() < self.oversampling
        centre = foreground_voxel(label) if around_foreground else None
        corner = self._anywhere(label.shape) if centre is None else self._around(centre, label)
        return self._cut(image, corner), self._cut(label, corner)

    def _anywhere(self, volume: tuple[int, ...]) -> list[int]:
        return [
            int(np.random.randint(max(0, whole - part) + 1))
            for whole, part in zip(volume, self.shape, strict=True)
        ]

    def _around(self, centre: list[int], label: Array) -> list[int]:
        return [
            min(max(0, middle - part // 2), max(0, whole - part))
            for middle, whole, part in zip(centre, label.shape, self.shape, strict=True)
        ]

    def _cut(self, volume: Array, corner: list[int]) -> Array:
        box = tuple(slice(low, low + part) for low, part in zip(corner, self.shape, strict=True))
        cut = np.asarray(volume[box])
        if cut.shape == self.shape:
            return cut
        padded = np.zeros(self.shape, cut.dtype)
        padded[tuple(slice(0, length) for length in cut.shape)] = cut
        return padded


def foreground_voxel(label: Array) -> list[int] | None:
    """Choose a class, one of its two largest connected components, and a voxel of that.

    Returns:
        The voxel's coordinates, or None where the volume is all background.
    """
    label = np.ascontiguousarray(label)
    classes = np.unique(label[label > 0])
    if not classes.size:
        return None
    components, _ = ndimage.label(label == np.random.choice(classes))
    boxes = ndimage.find_objects(components)
    extents = [np.prod([side.stop - side.start for side in box]) for box in boxes]
    chosen = int(np.random.choice(np.argsort(extents)[-2:]))
    box = boxes[chosen]
    # A connected component meets every slice of its bounding box.
    z = np.random.randint(box[0].start, box[0].stop)
    voxels = np.argwhere(components[z, box[1], box[2]] == chosen + 1)
    y, x = voxels[np.random.randint(len(voxels))]
    return [int(z), box[1].start + int(y), box[2].start + int(x)]


@dataclass(frozen=True)
class RandomFlip:
    """Mirror image and label along each axis, each with its own toss."""

    probability: float = 1 / 3

    def __call__(self, image: Array, label: Array) -> tuple[Array, Array]:
        """Return both volumes, mirrored alike; they may be views."""
        for axis in range(image.ndim):
            if np.random.random_sample() < self.probability:
                image, label = np.flip(image, axis), np.flip(label, axis)
        return image, label


@dataclass(frozen=True)
class Cast:
    """Bring intensities to float32 with mean 0 and standard deviation 1, labels to uint8."""

    mean: float
    std: float

    def __call__(self, image: Array, label: Array) -> tuple[Array, Array]:
        """Return contiguous copies: the inputs may be views of a file."""
        normalised = np.subtract(image, self.mean, dtype=np.float32)
        normalised /= np.float32(self.std)
        return np.ascontiguousarray(normalised), np.array(label, dtype=np.uint8, order="C")


@dataclass(frozen=True)
class RandomBrightness:
    """Multiply the image by one factor from ``[1 - factor, 1 + factor)``, now and then."""

    factor: float = 0.3
    probability: float = 0.1

    def __call__(self, image: Array, label: Array) -> tuple[Array, Array]:
        """Return the brighter or darker image and the same label."""
        if np.random.random_sample() < self.probability:
            image = image * np.float32(np.random.uniform(1 - self.factor, 1 + self.factor))
        return image, label


@dataclass(frozen=True)
class GaussianNoise:
    """Add noise to the image, now and then; its strength is drawn from ``[0, std)``."""

    mean: float = 0.0
    std: float = 0.1
    probability: float = 0.1

    def __call__(self, image: Array, label: Array) -> tuple[Array, Array]:
        """Return the noisy image and the same label."""
        if np.random.random_sample() < self.probability:
            strength = np.random.uniform(0.0, self.std)
            image = image + np.random.normal(self.mean, strength, image.shape).astype(image.dtype)
        return image, label


def preprocess(
    image: Array, label: Array, *, crop: RandomBalancedCrop, mean: float, std: float
) -> tuple[Array, Array]:
    """Run the whole pipeline: crop, flip, cast, brightness, noise.

    Args:
        image: Intensities (slices, height, width), any real type; may be memory-mapped.
        label: Classes of the same shape, 0 for background.
        crop: How to cut the box that the network sees.
        mean: Mean intensity of the scan.
        std: Standard deviation of the scan's intensity.

    Returns:
        The float32 image and the uint8 label, both of shape ``(1, *crop.shape)``.
    """
    steps = (crop, RandomFlip(), Cast(mean, std), RandomBrightness(), GaussianNoise())
    for step in steps:
        image, label = step(image, label)
    return image[np.newaxis], label[np.newaxis]
