"""The loaders that are compared, by name, each with the settings a user would choose."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler, default_collate

from benchmarks.workloads.spec import IndexedDataset, Workload

Build = Callable[..., Iterable[Any]]


def shuffled(dataset: IndexedDataset, seed: int) -> RandomSampler:
    """A sampler whose order depends on ``seed`` alone, however often a loader draws."""
    return RandomSampler(dataset, generator=torch.Generator().manual_seed(seed))


def _torch(**settings: Any) -> Build:
    def build(**arguments: Any) -> Iterable[Any]:
        return DataLoader(**arguments, **settings)

    return build


def _hatchway(**settings: Any) -> Build:
    def build(**arguments: Any) -> Iterable[Any]:
        hatchway: Any = importlib.import_module("hatchway")
        loader: Iterable[Any] = hatchway.DataLoader(**arguments, **settings)
        return loader

    return build


def _nodes(kind: str) -> Build:
    def build(
        *, dataset: Any, sampler: Any, batch_size: int, num_workers: int, **_: Any
    ) -> Iterable[Any]:
        nodes: Any = importlib.import_module("torchdata.nodes")
        mapped = nodes.ParallelMapper(
            nodes.SamplerWrapper(sampler),
            dataset.__getitem__,
            num_workers=num_workers,
            in_order=False,
            method=kind,
            multiprocessing_context="fork" if kind == "process" else None,
        )
        batches = nodes.Batcher(mapped, batch_size=batch_size, drop_last=False)
        collated = nodes.Mapper(batches, default_collate)
        loader: Iterable[Any] = nodes.Loader(nodes.Prefetcher(collated, prefetch_factor=2))
        return loader

    return build


def _spdl(
    *, dataset: Any, sampler: Any, batch_size: int, num_workers: int, **_: Any
) -> Iterable[Any]:
    spdl: Any = importlib.import_module("spdl.pipeline")
    builder = (
        spdl.PipelineBuilder()
        .add_source(sampler)
        .pipe(dataset.__getitem__, concurrency=num_workers, output_order="completion")
        .aggregate(batch_size)
        .pipe(default_collate)
        .add_sink(2)
    )
    pipeline = builder.build(num_threads=num_workers + 1)
    with pipeline.auto_stop():
        yield from pipeline.get_iterator()


LOADERS: dict[str, Build] = {
    "torch": _torch(),
    "torch-unordered": _torch(in_order=False),
    "torch-prefetch8": _torch(prefetch_factor=8),
    "hatchway": _hatchway(),
    "hatchway-strict": _hatchway(order="strict"),
    "nodes-threads": _nodes("thread"),
    "nodes-processes": _nodes("process"),
    "spdl-threads": _spdl,
}
TITLES = {
    "torch": "torch in order",
    "torch-unordered": "torch `in_order=False`",
    "torch-prefetch8": "torch `prefetch_factor=8`",
    "hatchway": "Hatchway",
    "hatchway-strict": 'Hatchway `order="strict"`',
    "nodes-threads": "torchdata.nodes threads",
    "nodes-processes": "torchdata.nodes processes",
    "spdl-threads": "SPDL threads",
}
DEFAULT_LOADERS = ("torch", "torch-unordered", "torch-prefetch8", "hatchway", "hatchway-strict")
_MODULES = {"hatchway": "hatchway", "nodes": "torchdata", "spdl": "spdl"}


def why_missing(name: str) -> str | None:
    """Say in one line why loader ``name`` cannot run here; None if it can."""
    module = _MODULES.get(name.split("-")[0])
    if module is None:
        return None
    if importlib.util.find_spec(module) is None:
        return f"{name}: {module} is not installed"
    if module == "hatchway" and not hasattr(importlib.import_module(module), "DataLoader"):
        return f"{name}: hatchway has no DataLoader yet"
    return None


def build_loader(
    name: str, workload: Workload, dataset: IndexedDataset, seed: int
) -> Iterable[Any]:
    """Build loader ``name`` over ``dataset`` in the order that ``seed`` gives."""
    return LOADERS[name](
        dataset=dataset,
        sampler=shuffled(dataset, seed),
        batch_size=workload.batch_size,
        num_workers=workload.num_workers,
    )
