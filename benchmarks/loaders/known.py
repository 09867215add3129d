"""All loaders by name, and which of them can run here."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.loaders import drop_in, grain_dataset, nodes, spdl_pipeline
from benchmarks.loaders.request import Build, Request, shuffled
from benchmarks.workloads.spec import IndexedDataset, Workload


@dataclass(frozen=True)
class Loader:
    """A loader with its settings.

    Attributes:
        package: What must be installed for it, beside torch and Hatchway.
    """

    title: str
    build: Build
    package: str | None = None


LOADERS: dict[str, Loader] = {
    "torch": Loader("torch in order", drop_in.stock()),
    "torch-unordered": Loader("torch `in_order=False`", drop_in.stock(in_order=False)),
    "torch-prefetch8": Loader("torch `prefetch_factor=8`", drop_in.stock(prefetch_factor=8)),
    "torch-unordered-prefetch8": Loader(
        "torch `in_order=False`, `prefetch_factor=8`",
        drop_in.stock(in_order=False, prefetch_factor=8),
    ),
    "hatchway": Loader("Hatchway", drop_in.hatchway()),
    "hatchway-strict": Loader('Hatchway `order="strict"`', drop_in.hatchway(order="strict")),
    "spdl-threads": Loader("SPDL threads", spdl_pipeline.threads, "spdl"),
    "spdl-subprocess": Loader("SPDL threads in a process", spdl_pipeline.subprocess, "spdl"),
    "spdl-processes": Loader("SPDL processes", spdl_pipeline.processes, "spdl"),
    "nodes-threads": Loader("torchdata.nodes threads", nodes.single_samples("thread"), "torchdata"),
    "nodes-processes": Loader(
        "torchdata.nodes processes", nodes.single_samples("process"), "torchdata"
    ),
    "nodes-batches": Loader(
        "torchdata.nodes processes, whole batches", nodes.whole_batches, "torchdata"
    ),
    "grain-threads": Loader("Grain threads", grain_dataset.threads, "grain"),
    "grain-processes": Loader("Grain processes", grain_dataset.processes, "grain"),
}
TITLES = {name: loader.title for name, loader in LOADERS.items()}
DEFAULT_LOADERS = tuple(LOADERS)


def without_missing(names: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """Leave out the loaders whose packages are not installed; say so in one line."""
    packages = {LOADERS[name].package for name in names} - {None}
    missing = sorted(package for package in packages if package and not _is_installed(package))
    if not missing:
        return tuple(names), None
    present = tuple(name for name in names if LOADERS[name].package not in missing)
    absent = ", ".join(name for name in names if name not in present)
    return present, f"not installed: {', '.join(missing)}; left out: {absent}"


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def build_loader(
    name: str, workload: Workload, dataset: IndexedDataset, seed: int, *, num_epochs: int = 1
) -> Iterable[Any]:
    """Build loader ``name`` over ``dataset`` in the order that ``seed`` gives."""
    return LOADERS[name].build(
        Request(
            dataset=dataset,
            sampler=shuffled(dataset, seed),
            batch_size=workload.batch_size,
            num_workers=workload.num_workers,
            num_epochs=num_epochs,
            samples_a_call=workload.samples_a_call,
        )
    )
