"""Ranks that share their workers: ``python -m benchmarks.shared_workers``.

Gloo ranks train in step (a barrier a batch), and the samples of the first rank take ten times
as long as those of the others. An epoch with ``share_workers=True`` and one without, by turns;
*over* is the second one's time over the first one's, from ``iter()`` of the slowest rank to its
last step. *Limit* is what the workers of all ranks could bring, if each were always at work.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import Dataset, DistributedSampler

from benchmarks.arguments import positive
from benchmarks.figures import spread

FAST_S, SLOW_S = 0.002, 0.02
BATCH_SIZE, NUM_BATCHES, NUM_WORKERS = 8, 25, 2


class Uneven(Dataset[int]):
    """Those of the first rank are slow."""

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks

    def __len__(self) -> int:
        return self.num_ranks * BATCH_SIZE * NUM_BATCHES

    def __getitem__(self, index: int) -> int:
        time.sleep(FAST_S if index % self.num_ranks else SLOW_S)
        return index


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0."""
    options = _parser().parse_args(arguments)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        _rank, (options.ranks, options.repeats, port), options.ranks, start_method="spawn"
    )
    return 0


def _rank(rank: int, num_ranks: int, repeats: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    torch.set_num_threads(1)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for repeat in range(repeats):
        for shares in (repeat % 2 == 0, repeat % 2 == 1):
            seconds[shares].append(_epoch_s(num_ranks, shares))
    dist.destroy_process_group()
    if rank:
        return
    work_s = BATCH_SIZE * NUM_BATCHES * (SLOW_S + (num_ranks - 1) * FAST_S)
    limit_s = work_s / num_ranks / NUM_WORKERS
    over = [alone / shared for alone, shared in zip(seconds[False], seconds[True], strict=True)]
    print(f"{num_ranks} ranks with {NUM_WORKERS} workers each, samples of {SLOW_S} and {FAST_S} s")
    print(f"without sharing, s: {spread(seconds[False]).text()}")
    print(f"with sharing, s: {spread(seconds[True]).text()}; limit {limit_s:.2f}")
    print(f"over: {spread(over).text()}")


def _epoch_s(num_ranks: int, shares: bool) -> float:
    from hatchway import DataLoader

    dataset = Uneven(num_ranks)
    sampler: Any = DistributedSampler(dataset, shuffle=False)
    loader: Any = DataLoader(
        dataset,
        BATCH_SIZE,
        sampler=sampler,
        num_workers=NUM_WORKERS,
        order="strict",
        share_workers=shares,
        multiprocessing_context="fork",  # whatever started the ranks
    )
    dist.barrier()
    begun, came = time.perf_counter(), []
    for batch in loader:
        came += batch.tolist()
        dist.barrier()  # the step: all ranks together
    seconds = time.perf_counter() - begun
    if came != list(sampler):
        raise AssertionError(f"rank {dist.get_rank()} got other samples than its sampler's")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shared_workers",
        description="Ranks that train in step, with and without sharing their workers.",
    )
    parser.add_argument("--ranks", type=positive, default=2, help="default: 2")
    parser.add_argument("--repeats", type=positive, default=5, help="default: 5")
    return parser


if __name__ == "__main__":
    sys.exit(main())
