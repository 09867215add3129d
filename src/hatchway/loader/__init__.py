"""A drop-in PyTorch ``DataLoader`` in which one slow sample never stalls a batch.

Importing this package does not import torch; the first use of a name does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hatchway.loader.context import sample_seed
    from hatchway.loader.dataloader import DataLoader
    from hatchway.loader.deferred import Deferred, DeferredDataset
    from hatchway.loader.errors import (
        BufferFullError,
        LoaderTimeoutError,
        SampleError,
        SharedMemoryError,
        StateError,
        UnpicklableError,
        WorkerDiedError,
    )
    from hatchway.loader.statistics import LoaderStatistics

__all__ = [
    "BufferFullError",
    "DataLoader",
    "Deferred",
    "DeferredDataset",
    "LoaderStatistics",
    "LoaderTimeoutError",
    "SampleError",
    "SharedMemoryError",
    "StateError",
    "UnpicklableError",
    "WorkerDiedError",
    "sample_seed",
]

_HOMES = {
    "DataLoader": "dataloader",
    "Deferred": "deferred",
    "DeferredDataset": "deferred",
    "LoaderStatistics": "statistics",
    "sample_seed": "context",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"hatchway.loader.{_HOMES.get(name, 'errors')}")
    value: object = getattr(module, name)
    globals()[name] = value
    return value
