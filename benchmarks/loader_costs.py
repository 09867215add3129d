"""What a loader takes beyond the samples' own time, as the simulator's parameters.

Measured without any of the workload's own work, so that nothing is fitted to a result:

- ``sample_s``: processor time of all the loader's processes for each of as many copies of
  a sample as an epoch has, beyond that of a few, and less the copying itself. On a
  machine whose cores are all busy this is what the samples wait for.
- ``fork_s``, ``boot_s``: from ``iter()`` to the first sample of each worker.
- ``copy_s``: copying a sample, where a batch has to be put together.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch.utils.data import Dataset, get_worker_info

from benchmarks.contention import CpuClock
from benchmarks.epoch import children, wait_for_ends
from benchmarks.loaders import LOADERS, Request, shuffled
from benchmarks.workloads import IndexedDataset, Workload
from hatchway.loader.simulator import Costs

_FEW_BATCHES = 4
_TRIES = 3
_NAP_S = 0.03


class Copies(Dataset[Any]):
    """Samples that cost nothing but memory of their own: one made beforehand would stay in
    the caches, and the loader would be spared what it costs to fetch a real one.
    """

    def __init__(self, num_samples: int, sample: torch.Tensor) -> None:
        self._num_samples = num_samples
        self._sample = sample

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._sample.clone(), index


class Stamps(Dataset[Any]):
    """Samples that say when they began, and on which worker."""

    def __init__(self, num_samples: int) -> None:
        self._num_samples = num_samples

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        began = time.perf_counter()
        time.sleep(_NAP_S)  # so that no worker takes them all
        info = get_worker_info()
        return torch.tensor(began, dtype=torch.float64), -1 if info is None else info.id


def measure_costs(name: str, workload: Workload, dataset: IndexedDataset, seed: int) -> Costs:
    """Measure what a loader takes beyond the samples' own time."""
    sample = dataset[0][0]
    num_few = min(_FEW_BATCHES, len(dataset) // workload.batch_size // 2)
    made, few = Copies(len(dataset), sample), Copies(num_few * workload.batch_size, sample)
    sample_s = []
    for _ in range(_TRIES):
        spent_s = _cpu_s(name, workload, made, seed) - _cpu_s(name, workload, few, seed)
        sample_s.append(max(0.0, spent_s) / (len(made) - len(few)))
    starts = [_starts_s(name, workload.num_workers) for _ in range(_TRIES)]
    first_s = statistics.median(one[0] for one in starts)
    last_s = statistics.median(one[-1] for one in starts)
    fork_s = (last_s - first_s) / max(1, workload.num_workers - 1)
    return Costs(
        sample_s=max(0.0, statistics.median(sample_s) - _bare_call_s(made)),
        copy_s=_copy_s(sample),
        fork_s=fork_s,
        boot_s=max(0.0, first_s - fork_s),
    )


def _loader(name: str, dataset: Any, batch_size: int, num_workers: int, seed: int) -> Any:
    return LOADERS[name].build(
        Request(
            dataset=dataset,
            sampler=shuffled(dataset, seed),
            batch_size=batch_size,
            num_workers=num_workers,
        )
    )


def _cpu_s(name: str, workload: Workload, dataset: Any, seed: int) -> float:
    """Processor time of an epoch with all processes of the loader."""
    before, began = children(), CpuClock.read()
    loader = _loader(name, dataset, workload.batch_size, workload.num_workers, seed)
    for _ in loader:
        pass
    del loader
    wait_for_ends(before)
    return CpuClock.read().since(began)[0]


def _bare_call_s(dataset: Copies) -> float:
    began = time.process_time()
    for index in range(len(dataset)):
        dataset[index]
    return (time.process_time() - began) / len(dataset)


def _copy_s(sample: torch.Tensor) -> float:
    target, taken_s = torch.empty_like(sample), []
    for _ in range(20):
        began = time.perf_counter()
        target.copy_(sample)
        taken_s.append(time.perf_counter() - began)
    return statistics.median(taken_s)


def _starts_s(name: str, num_workers: int) -> list[float]:
    """When each worker began its first sample, earliest first, from ``iter()`` on."""
    loader = _loader(name, Stamps(4 * num_workers), 1, num_workers, 0)
    firsts: dict[int, float] = {}
    began = time.perf_counter()
    for stamp, worker in loader:
        at_s = float(stamp) - began
        firsts[int(worker)] = min(at_s, firsts.get(int(worker), at_s))
    return sorted(firsts.values())
