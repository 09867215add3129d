"""A training job that can be killed at any moment and goes on where it was.

Run it, kill it (Ctrl-C, kill -9), run it again, with another number of workers if you like:
each of the 240 samples comes once.

    python examples/resume.py state.pt 2
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

from hatchway import DataLoader


class Scans(torch.utils.data.Dataset[int]):
    """240 samples; every fifth takes twenty times as long, by waiting."""

    def __len__(self) -> int:
        return 240

    def __getitem__(self, i: int) -> int:
        time.sleep(0.1 if i % 5 == 0 else 0.005)
        return i


def save(path: Path, loader: DataLoader[int], seen: list[int]) -> None:
    """Save where the job stands, whole or not at all."""
    new = path.with_suffix(".new")
    torch.save({"loader": loader.state_dict(), "seen": seen}, new)
    os.replace(new, path)


def main(path: Path, num_workers: int) -> None:
    """One epoch, from the beginning or from where it was left."""
    loader = DataLoader(Scans(), batch_size=8, shuffle=True, num_workers=num_workers)
    seen: list[int] = []
    if path.exists():
        saved = torch.load(path, weights_only=True)
        loader.load_state_dict(saved["loader"])
        seen = saved["seen"]
        print(f"going on after {len(seen)} samples", flush=True)
    for batch in loader:
        seen += batch.tolist()  # the training step
        save(path, loader, seen)
        print(f"{len(seen)} samples", flush=True)
    path.unlink()
    assert sorted(seen) == list(range(240))
    print("every sample once")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
