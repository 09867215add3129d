"""Plain DistributedDataParallel: one loader a rank, set_epoch as always.

torchrun --nproc-per-node=2 examples/frameworks/ddp.py
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset
from torch.utils.data.distributed import DistributedSampler

from hatchway import DataLoader  # the one line that changes


def main() -> None:
    """Two epochs; the ranks together see every sample once in each, in another order."""
    dist.init_process_group("gloo")
    x = torch.arange(64.0)[:, None]
    data = TensorDataset(x, x / 64)
    sampler = DistributedSampler(data, shuffle=True)
    loader = DataLoader(data, batch_size=4, sampler=sampler, num_workers=2, persistent_workers=True)
    model = DistributedDataParallel(torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        mine: list[int] = []
        for x, y in loader:
            torch.nn.functional.mse_loss(model(x / 64), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            mine += x[:, 0].int().tolist()
        everyone: list[list[int]] = [[]] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        assert sorted(number for mine in everyone for number in mine) == list(range(64))
        orders.append(everyone)
    assert orders[0] != orders[1]
    if dist.get_rank() == 0:
        print(f"64 samples on {dist.get_world_size()} ranks, each once in each of 2 epochs")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
