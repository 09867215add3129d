"""JPEG decode by Pillow: photographs at skewed sizes, random resized crop, float32."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from benchmarks.workloads.spec import IndexedDataset, Sample, Scale, Workload

# Photographs that lie in scikit-image's wheel (nothing is downloaded).
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "retina", "hubble_deep_field")
# Widths in pixels and how many files of 16 have them: small ones are common,
# one comes straight from a camera.
WIDTHS = {640: 9, 1024: 4, 1600: 2, 4000: 1}
QUALITY = 90
CROP = 224
SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)


def encode_photographs() -> list[bytes]:
    """Encode each photograph at each width, as often as ``WIDTHS`` says.

    Raises:
        ModuleNotFoundError: If scikit-image is not installed.
    """
    from skimage import data

    files: list[bytes] = []
    for name in PHOTOGRAPHS:
        photograph = Image.fromarray(getattr(data, name)()).convert("RGB")
        for width, count in WIDTHS.items():
            height = round(photograph.height * width / photograph.width)
            encoded = io.BytesIO()
            resized = photograph.resize((width, height), Image.Resampling.BICUBIC)
            resized.save(encoded, "JPEG", quality=QUALITY)
            files += [encoded.getvalue()] * count
    return files


class JpegDataset(IndexedDataset):
    """Decoded, randomly cropped and resized photographs, 3x224x224 float32 in [0, 1].

    The files lie in memory: the workload is decode, not the disk. What a
    sample contains and costs depends on (seed, index) alone.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        files = encode_photographs()
        order = np.random.default_rng(seed).permutation(len(files))
        self._files = [files[i] for i in order]
        self._num_samples = num_samples
        self._seed = seed

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self._seed, index))
        with Image.open(io.BytesIO(self._files[index % len(self._files)])) as photograph:
            pixels = photograph.resize(
                (CROP, CROP), Image.Resampling.BILINEAR, box=_crop_box(photograph.size, rng)
            )
        if rng.random() < 0.5:
            pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        channels_last = torch.from_numpy(np.array(pixels))
        return channels_last.permute(2, 0, 1).to(torch.float32).div_(255).contiguous(), index


def _crop_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a box of random area and aspect, as torchvision's RandomResizedCrop does (one try)."""
    width, height = size
    area = width * height * rng.uniform(*SCALE)
    ratio = float(np.exp(rng.uniform(*np.log(RATIO))))
    w = min(width, max(1, round((area * ratio) ** 0.5)))
    h = min(height, max(1, round((area / ratio) ** 0.5)))
    left = int(rng.integers(0, width - w + 1))
    top = int(rng.integers(0, height - h + 1))
    return left, top, left + w, top + h


def _build(scale: Scale) -> IndexedDataset:
    return JpegDataset(scale.num_samples, scale.seed)


JPEG = Workload(
    name="jpeg",
    title="JPEG decode and random resized crop, 3x224x224 float32, 2 workers, batch 16",
    build=_build,
    batch_size=16,
    num_workers=2,
    num_batches={"full": 40, "short": 18, "quick": 4},
    parameters={
        "photographs": PHOTOGRAPHS,
        "files_of_16_by_width": WIDTHS,
        "quality": QUALITY,
        "shape": (3, CROP, CROP),
    },
)
