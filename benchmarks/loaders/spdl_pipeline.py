"""SPDL 0.8: the three pipelines of its page "Execution models", MT, MTP and MP.

https://facebookresearch.github.io/spdl/0.8.0/getting_started/execution_models.html:

- :func:`threads` (MT): samples on a pool of threads, aggregated and collated as they
  finish. "It is the simplest option", for work that releases the GIL.
- :func:`subprocess` (MTP): the same in one process of its own, "the recommended
  production pattern" beside a GPU.
- :func:`processes` (MP): a region of stages in a pool of processes makes whole
  batches; for work in Python that holds the GIL. Lists of indices come from torch's
  ``BatchSampler``, as in SPDL's own ``get_pytorch_dataloader``: the page's
  ``aggregate`` costs some 100 us an index. The orchestration stays in the training
  process (the page moves it to one more process for a GPU's sake), so that the
  number of processes is that of the others.

For several epochs the source is ``continuous=True``, as there: the pipeline runs
on, and its workers stay.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler

from benchmarks.loaders.request import Request


class Running:
    """A pipeline that is started by the first iteration and stopped by the last.

    Args:
        start: Starts it; returns what gives an iterator for each epoch, and how to stop it.
        num_epochs: How many iterations there will be.
    """

    def __init__(
        self, start: Callable[[], tuple[Iterable[Any], Callable[[], None]]], num_epochs: int
    ) -> None:
        self._start = start
        self._epochs_left = num_epochs
        self._epochs: Iterable[Any] | None = None
        self._stop: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Any]:
        if self._epochs is None:
            self._epochs, self._stop = self._start()
        self._epochs_left -= 1
        is_whole = False
        try:
            yield from self._epochs
            is_whole = True
        finally:
            if self._epochs_left == 0 or not is_whole:
                self._epochs = None
                self._stop()


def threads(request: Request) -> Iterable[Any]:
    """A pool of threads in the training process."""

    def start() -> tuple[Iterable[Any], Callable[[], None]]:
        pipeline = _samples(request).build(num_threads=_num_threads(request))
        pipeline.start()
        return pipeline, pipeline.stop

    return Running(start, request.num_epochs)


def subprocess(request: Request) -> Iterable[Any]:
    """The same pool of threads in a process of its own; only batches cross."""
    spdl: Any = importlib.import_module("spdl.pipeline")

    def start() -> tuple[Iterable[Any], Callable[[], None]]:
        batches = spdl.run_pipeline_in_subprocess(
            _samples(request).get_config(),
            num_threads=_num_threads(request),
            # As every worker of torch does: two pools of threads on the same
            # cores would be slower than one.
            initializer=_one_thread_an_operation,
        )
        # It is stopped when the last reference to it goes.
        return batches, lambda: None

    return Running(start, request.num_epochs)


def processes(request: Request) -> Iterable[Any]:
    """A pool of processes, each making a batch."""
    spdl: Any = importlib.import_module("spdl.pipeline")
    defs: Any = importlib.import_module("spdl.pipeline.defs")
    pool = defs.ProcessPoolExecutorConfig(
        max_workers=request.num_workers, initializer=_one_thread_an_operation
    )

    def start() -> tuple[Iterable[Any], Callable[[], None]]:
        pipeline = (
            _source(spdl, BatchSampler(request.sampler, request.batch_size, False), request)
            .to(pool)
            .pipe(_Fetch(request.dataset))
            .pipe(request.collate)
            .to(defs.MAIN_PROCESS)
            .add_sink(request.num_batches_ahead)
            .build(num_threads=1)
        )
        pipeline.start()
        return pipeline, pipeline.stop

    return Running(start, request.num_epochs)


class _Fetch:
    """A stage that makes the samples of a list of indices."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __call__(self, indices: list[int]) -> list[Any]:
        return [self._dataset[index] for index in indices]


def _samples(request: Request) -> Any:
    # As https://facebookresearch.github.io/spdl/0.8.0/migration/pytorch.html has it, in
    # the order of completion, which is the default.
    return (
        _source(importlib.import_module("spdl.pipeline"), request.sampler, request)
        .pipe(request.dataset.__getitem__, concurrency=request.num_workers)
        .aggregate(request.batch_size)
        .pipe(request.collate)
        .add_sink(request.num_batches_ahead)
    )


def _source(spdl: Any, sampler: Any, request: Request) -> Any:
    return spdl.PipelineBuilder().add_source(sampler, continuous=request.num_epochs > 1)


def _num_threads(request: Request) -> int:
    # The pool must hold what all stages may run at once
    # (https://facebookresearch.github.io/spdl/0.8.0/getting_started/concurrency.html):
    # the samples, and one call of collate.
    return request.num_workers + 1


def _one_thread_an_operation() -> None:
    torch.set_num_threads(1)
