"""The loaders that are compared: each turns a dataset and an order into batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from torch.utils.data import DataLoader

import hatchway
from benchmarks.accuracy import fastfirst

BATCH_SIZE = 32
NUM_WORKERS = 8
REFERENCE = "torch"
STRICT = "strict"


class Build(Protocol):
    """Makes one epoch's batches of ``dataset`` in the sampler's ``order``."""

    def __call__(
        self, dataset: Any, order: Sequence[int], batch_size: int, num_workers: int
    ) -> Iterable[Any]: ...


def _torch(dataset: Any, order: Sequence[int], batch_size: int, num_workers: int) -> Iterable[Any]:
    return DataLoader(dataset, batch_size, sampler=order, num_workers=num_workers)


def _strict(dataset: Any, order: Sequence[int], batch_size: int, num_workers: int) -> Iterable[Any]:
    return hatchway.DataLoader(
        dataset, batch_size, sampler=order, num_workers=num_workers, order="strict"
    )


def _ready(dataset: Any, order: Sequence[int], batch_size: int, num_workers: int) -> Iterable[Any]:
    return hatchway.DataLoader(
        dataset, batch_size, sampler=order, num_workers=num_workers, order="ready"
    )


LOADERS: dict[str, Build] = {
    REFERENCE: _torch,
    STRICT: _strict,
    "ready": _ready,
    "unbounded": fastfirst.unbounded,
    "counting": fastfirst.counting,
}
TITLES = {
    REFERENCE: "torch in order",
    STRICT: 'Hatchway `order="strict"`',
    "ready": 'Hatchway `order="ready"`',
    "unbounded": "unbounded fast-first",
    "counting": "counting, dropping fast-first",
}
# The only one that may lose or double samples.
LOSING = frozenset({"counting"})
