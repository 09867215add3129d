"""Grain 0.2.18: its ``Dataset``, with processes for CPU work and with threads for waiting.

- :func:`processes`: ``MapDataset`` to ``to_iter_dataset`` to ``mp_prefetch``, after
  https://google-grain.readthedocs.io/en/latest/tutorials/dataset_basic_tutorial.html.
  Samples are batched before the workers share out the elements, so that every
  batch is full. Its workers are spawned, by design, and start in seconds.
  ``num_threads=0``: at the default of 16 threads a worker it would have 16 times the
  workers of the others (8 threads in each of 10 workers are 80, says the reference
  of ``ReadOptions``), and for data in memory the same place recommends 0.
- :func:`threads`: no processes, ``ReadOptions.num_threads`` reads ahead "to hide the
  latency of each element's IO", as that tutorial advises for reading.

Batches are made by ``batch_fn`` with torch's functions, as
https://google-grain.readthedocs.io/en/latest/tutorials/data_sources/pytorch_dataset_tutorial.html
does. Order is the sampler's, always. An iterator cannot be rewound, so several
epochs are one iterator over all of them: what ``repeat`` does.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from benchmarks.loaders.request import BATCHES_AHEAD_A_WORKER, Request


class Ordered:
    """A source of random access: the samples of ``dataset`` in the order of all epochs."""

    def __init__(self, dataset: Any, order: list[int]) -> None:
        self._dataset = dataset
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> Any:
        return self._dataset[self._order[position]]


class Epochs:
    """One iterator over all epochs, handed out an epoch at a time."""

    def __init__(self, pipeline: Callable[[Any, Request], Any], request: Request) -> None:
        self._pipeline = pipeline
        self._request = request
        self._epochs_left = request.num_epochs
        self._batches: Any = None

    def __iter__(self) -> Iterator[Any]:
        request = self._request
        if self._batches is None:
            order = [index for _ in range(request.num_epochs) for index in request.sampler]
            self._batches = iter(self._pipeline(Ordered(request.dataset, order), request))
        self._epochs_left -= 1
        is_whole = False
        try:
            num_batches = -(-len(request.sampler) // request.batch_size)
            yield from itertools.islice(self._batches, num_batches)
            is_whole = True
        finally:
            if self._epochs_left == 0 or not is_whole:
                # "It is recommended to manually close an iterator" (mp_prefetch).
                self._batches.close()


def processes(request: Request) -> Iterable[Any]:
    """Worker processes, each making every ``num_workers``-th batch."""
    return Epochs(_in_processes, request)


def threads(request: Request) -> Iterable[Any]:
    """Threads of the training process, each making a sample."""
    return Epochs(_in_threads, request)


def _in_processes(source: Ordered, request: Request) -> Any:
    grain: Any = importlib.import_module("grain")
    return (
        grain.MapDataset.source(source)
        .batch(request.batch_size, batch_fn=request.collate)
        .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        .mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=request.num_workers, per_worker_buffer_size=BATCHES_AHEAD_A_WORKER
            ),
            worker_init_fn=_one_thread_an_operation,
        )
    )


def _in_threads(source: Ordered, request: Request) -> Any:
    grain: Any = importlib.import_module("grain")
    options = grain.ReadOptions(
        num_threads=request.num_workers,
        prefetch_buffer_size=request.num_batches_ahead * request.batch_size,
    )
    return (
        grain.MapDataset.source(source)
        .to_iter_dataset(options)
        .batch(request.batch_size, batch_fn=request.collate)
    )


def _one_thread_an_operation(_worker: int, _num_workers: int) -> None:
    # As every worker of torch does.
    torch.set_num_threads(1)
