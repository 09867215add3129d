"""Loaders with the interface of torch's: torch's own, and Hatchway's."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from torch.utils.data import DataLoader

from benchmarks.loaders.request import Build, Request


def stock(**settings: Any) -> Build:
    """Torch's loader with ``settings``; everything else at its default."""

    def build(request: Request) -> Iterable[Any]:
        return DataLoader(**_arguments(request), **settings)

    return build


def hatchway(**settings: Any) -> Build:
    """Hatchway's loader with ``settings``; everything else at its default."""

    def build(request: Request) -> Iterable[Any]:
        package: Any = importlib.import_module("hatchway")
        loader: Iterable[Any] = package.DataLoader(**{**_arguments(request), **settings})
        return loader

    return build


def _arguments(request: Request) -> dict[str, Any]:
    return {
        "dataset": request.dataset,
        "sampler": request.sampler,
        "batch_size": request.batch_size,
        "num_workers": request.num_workers,
        "collate_fn": request.collate_fn,
        "persistent_workers": request.num_epochs > 1,
    }
