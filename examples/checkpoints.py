"""Save model and loader after each step; killed at any moment, go on where it was.

    python examples/checkpoints.py DIRECTORY [STEPS]

A step writes to a few rows of a large table, so a checkpoint of it is small. Run it twice, or
kill it in between: the second run goes on from the last step that is on the disk.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch
from torch import nn

from hatchway import DataLoader
from hatchway.checkpoint import IncrementalSnapshot, restore, steps_of

NUM_ROWS, WIDTH, BATCH = 50_000, 64, 8


class Pairs(torch.utils.data.Dataset):
    """Rows that belong together."""

    def __len__(self) -> int:
        return 4000

    def __getitem__(self, index: int) -> tuple[int, int]:
        return index * 7919 % NUM_ROWS, index * 104729 % NUM_ROWS


def main() -> None:
    """Train for some steps, and say what each cost to save."""
    directory = Path(sys.argv[1])
    num_steps = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    table = nn.Embedding(NUM_ROWS, WIDTH, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), 0.1)
    loader = DataLoader(Pairs(), BATCH, shuffle=True, num_workers=2)
    if directory.exists() and steps_of(directory):
        found = restore(directory, table.state_dict())
        loader.load_state_dict(pickle.loads(found.extra))
        print(f"going on after step {found.step}")
    with IncrementalSnapshot(table.state_dict(), directory, keep=20) as snapshot:
        for _, (left, right) in zip(range(num_steps), loader, strict=False):
            optimizer.zero_grad()
            (table(left) - table(right)).square().sum().backward()
            optimizer.step()
            saved = snapshot.save(pickle.dumps(loader.state_dict()))
            print(f"step {saved.step}: {saved.num_bytes / 1024:.0f} KiB saved", flush=True)


if __name__ == "__main__":
    main()
