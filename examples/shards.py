"""Images in tar shards: reading is sequential and cheap, decoding is neither.

The shards are as WebDataset lays them out: one file each for the parts of a sample, which
share a name. One process reads them; the workers take the decoding of one image at a time.

    python examples/shards.py
"""

from __future__ import annotations

import io
import tarfile
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hatchway import DataLoader, Deferred, DeferredDataset

NUM_SHARDS = 4
IMAGES_A_SHARD = 60


def write_shards(folder: Path) -> list[Path]:
    """Write tar files of noise; every tenth image has 64 times the pixels."""
    noise = np.random.default_rng(0)
    paths = [folder / f"shard-{number}.tar" for number in range(NUM_SHARDS)]
    for shard, path in enumerate(paths):
        with tarfile.open(path, "w") as tar:
            for number in range(IMAGES_A_SHARD):
                side = 1024 if number % 10 == 0 else 128
                pixels = noise.integers(0, 256, (side, side, 3), np.uint8)
                jpeg = io.BytesIO()
                Image.fromarray(pixels).save(jpeg, "JPEG")
                for suffix, content in (
                    ("jpg", jpeg.getvalue()),
                    ("cls", str(shard * IMAGES_A_SHARD + number).encode()),
                ):
                    entry = tarfile.TarInfo(f"{shard}-{number:04d}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return paths


def decode(key: str, jpeg: bytes, label: int) -> tuple[torch.Tensor, int]:
    """The expensive part: at the top of the module, so that it can be sent to a worker."""
    image = Image.open(io.BytesIO(jpeg)).resize((64, 64))
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    flipped = bool(torch.rand(()) < 0.5)  # seeded for the sample's position
    return pixels.flip(-1) if flipped else pixels, label


class Shards(DeferredDataset[tuple[torch.Tensor, int]]):
    """Reads every tar file, or this reader's share of them."""

    num_readers = 2  # when one does not keep up with the workers

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __iter__(self) -> Iterator[Deferred[tuple[torch.Tensor, int]]]:
        info = torch.utils.data.get_worker_info()
        mine = self.paths if info is None else self.paths[info.id :: info.num_workers]
        for path in mine:
            with tarfile.open(path) as tar:
                parts: dict[str, bytes] = {}
                for entry in tar:
                    key, _, suffix = entry.name.rpartition(".")
                    content = tar.extractfile(entry)
                    assert content is not None
                    parts[suffix] = content.read()
                    if len(parts) == 2:
                        yield Deferred(decode, key, parts["jpg"], int(parts["cls"]))
                        parts = {}


def main() -> None:
    """One epoch; every sample once."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    with tempfile.TemporaryDirectory() as folder:
        loader = DataLoader(
            Shards(write_shards(Path(folder))), batch_size=16, num_workers=4, order="ready"
        )
        labels: list[int] = []
        for images, batch_labels in loader:
            assert images.shape[1:] == (3, 64, 64)
            labels += batch_labels.tolist()  # the training step
    assert sorted(labels) == list(range(NUM_SHARDS * IMAGES_A_SHARD))
    s = loader.statistics()
    median_s, *_, longest_s = s.sample_time_quantiles_s
    print(f"{s.num_samples} images decoded in {s.num_batches} batches, each once")
    print(f"the slowest took {longest_s / median_s:.0f} times the median")
    print(f"{s.num_displaced} of them came late, {s.max_displacement} positions at most")


if __name__ == "__main__":
    main()
