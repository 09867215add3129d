"""Accelerate: prepare() keeps the loader in place, on each process.

torchrun --nproc-per-node=2 examples/frameworks/accelerate_prepare.py
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch.utils.data import TensorDataset

from hatchway import DataLoader  # the one line that changes


def main() -> None:
    """Two epochs; the processes together see every sample once in each."""
    accelerator = Accelerator(cpu=True)
    x = torch.arange(64.0)[:, None]
    loader = DataLoader(TensorDataset(x, x / 64), batch_size=4, shuffle=True, num_workers=2)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for epoch in range(2):
        seen = []
        for x, y in loader:
            loss = torch.nn.functional.mse_loss(model(x / 64), y)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            seen.append(accelerator.gather(x[:, 0]))
        assert sorted(torch.cat(seen).int().tolist()) == list(range(64))
        done = loader.statistics()  # of this process, and Hatchway's own
        accelerator.print(
            f"epoch {epoch}: 64 samples on {accelerator.num_processes} processes, each once; "
            f"{done.num_batches} batches here, order {done.order!r}"
        )
    accelerator.end_training()


if __name__ == "__main__":
    main()
