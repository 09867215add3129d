"""A dataset in a disk image, whose versions are layers of a chain.

The first version is a raw file that `qemu-img` turns into a base. The second one is an overlay
that holds only what was appended. Each is opened by its own file; workers read both at once.
Needs `qemu-img`.

    python examples/records_in_a_chain.py
"""

from __future__ import annotations

import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

from hatchway import DataLoader
from hatchway.disk import Chain, RawFile, Records, append_records, write_records

NUM_SAMPLES, NUM_MORE, SIDE = 400, 40, 32
DISK_BYTES = 64 * 1024 * 1024


class Images(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """A record is a label of one byte, and an image of 32 x 32 bytes."""

    def __init__(self, path: Path) -> None:
        self.records = Records(path)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        record = np.frombuffer(self.records[index], np.uint8)
        pixels = torch.from_numpy(record[1:].reshape(SIDE, SIDE).copy())
        return pixels.float() / 255, int(record[0])


def tool(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def samples(count: int) -> list[bytes]:
    noise = np.random.default_rng(count)
    return [
        bytes([number % 10]) + noise.integers(0, 256, SIDE * SIDE, np.uint8).tobytes()
        for number in range(count)
    ]


def main() -> None:
    """Make two versions, and read an epoch of each."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with RawFile(folder / "v1.raw") as file:
            write_records(file, samples(NUM_SAMPLES))
        base, overlay = folder / "v1.qcow2", folder / "v2.qcow2"
        tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", folder / "v1.raw", base)
        backed = ("-f", "qcow2", "-F", "qcow2", "-b", base.name)
        tool("qemu-img", "create", "-q", *backed, overlay, str(DISK_BYTES))
        with Chain(overlay, writable=True) as chain:
            append_records(chain, samples(NUM_MORE))
        for path in (base, overlay):
            dataset = Images(path)
            loader = DataLoader(dataset, batch_size=16, shuffle=True, num_workers=2)
            labels = torch.cat([label for _, label in loader])  # the training step
            counts = torch.bincount(labels).tolist()
            print(f"{path.name}: {len(labels)} samples, {counts[0]} of each label")
            assert counts == [len(dataset) // 10] * 10
            dataset.records.close()


if __name__ == "__main__":
    main()
