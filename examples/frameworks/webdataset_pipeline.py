"""WebDataset: its pipelines as they are, and with the decoding left to the workers.

python examples/frameworks/webdataset_pipeline.py
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds
from PIL import Image

from hatchway import DataLoader, Deferred, DeferredDataset

NUM_SHARDS = 4
IMAGES_A_SHARD = 20


def write_shards(folder: Path) -> list[str]:
    """Write tar files of noise."""
    noise = np.random.default_rng(0)
    paths = [str(folder / f"shard-{number}.tar") for number in range(NUM_SHARDS)]
    for shard, path in enumerate(paths):
        with wds.TarWriter(path) as tar:
            for number in range(IMAGES_A_SHARD):
                picture = io.BytesIO()
                Image.fromarray(noise.integers(0, 256, (64, 64, 3), np.uint8)).save(picture, "PNG")
                label = shard * IMAGES_A_SHARD + number
                tar.write({"__key__": f"{label:04d}", "png": picture.getvalue(), "cls": label})
    return paths


def decode(sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
    """The expensive part: at the top of the module, so that it can be sent to a worker."""
    image = Image.open(io.BytesIO(sample["png"])).resize((32, 32))
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1), int(sample["cls"])


class Deferring(DeferredDataset[tuple[torch.Tensor, int]]):
    """Reads a pipeline in one process, and leaves its last step to the workers."""

    def __init__(self, pipeline: wds.WebDataset) -> None:
        self.pipeline = pipeline

    def __iter__(self) -> Iterator[Deferred[tuple[torch.Tensor, int]]]:
        for sample in self.pipeline:
            yield Deferred(decode, sample)


def labels_of(loader: DataLoader[Any]) -> list[int]:
    """One epoch."""
    return [label for _, labels in loader for label in labels.tolist()]


def main() -> None:
    """Both ways every image comes once."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_shards(Path(folder))

        # As with torch's loader: each worker reads its shards, decodes and makes batches.
        pipeline = wds.WebDataset(paths, shardshuffle=False).map(decode)
        plain = labels_of(DataLoader(pipeline, batch_size=8, num_workers=2))

        # One process reads; a slow image delays nobody else, and a pass can be resumed.
        raw = wds.WebDataset(paths, shardshuffle=False)
        loader = DataLoader(Deferring(raw), batch_size=8, num_workers=2, order="ready")
        deferred = labels_of(loader)
    assert sorted(plain) == sorted(deferred) == list(range(NUM_SHARDS * IMAGES_A_SHARD))
    print(f"{len(plain)} images read by the workers, each once")
    print(f"{len(deferred)} images read by one process and decoded by the workers, each once")


if __name__ == "__main__":
    main()
