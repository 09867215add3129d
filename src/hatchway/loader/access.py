"""How a sample is read: ``dataset[index]``, or what comes closest to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    Dataset,
    IterableDataset,
    IterDataPipe,
    MapDataPipe,
    StackDataset,
    Subset,
)

from hatchway.loader.deferred import DeferredDataset
from hatchway.loader.items import Finisher, View

_NONE: Any = Dataset.__getitem__


def is_iterable(dataset: Any) -> bool:
    """Whether it is read from its beginning, by torch's own workers."""
    is_read = isinstance(dataset, IterableDataset | IterDataPipe | MapDataPipe)
    return is_read and not is_deferred(dataset)


def is_deferred(dataset: Any) -> bool:
    """Whether it is read from its beginning, and workers finish its samples."""
    return isinstance(dataset, DeferredDataset)


def fetches_batches(dataset: Any) -> bool:
    """Whether it has a way of its own, ``__getitems__``, to load a batch at once.

    torch's wrappers have the method in any case; there what they wrap decides.
    """
    if is_iterable(dataset) or is_deferred(dataset):
        return False
    if type(dataset) is Subset:
        return fetches_batches(dataset.dataset)
    if type(dataset) is StackDataset:
        parts = dataset.datasets
        return any(map(fetches_batches, parts.values() if isinstance(parts, dict) else parts))
    return callable(getattr(dataset, "__getitems__", None))


def by_index(dataset: Any, view: View | None = None) -> Any:
    """The dataset, or a stand-in that can be indexed where it cannot.

    Args:
        dataset: The user's.
        view: Gives the first bytes of a block, where what a dataset yielded lies in blocks.
    """
    if is_deferred(dataset):
        return Finisher(view)
    has_own = getattr(type(dataset), "__getitem__", _NONE) is not _NONE
    if has_own or not callable(getattr(dataset, "__getitems__", None)):
        return dataset
    return _OneByOne(dataset)


class _OneByOne:
    """Asks for batches of one."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, index: Any) -> Any:
        samples = self._dataset.__getitems__([index])
        if not isinstance(samples, list | tuple | torch.Tensor | np.ndarray) or len(samples) != 1:
            raise TypeError(
                f"{type(self._dataset).__name__}.__getitems__([{index!r}]) must return a list of "
                f"one sample, not {type(samples).__name__}: Hatchway loads samples one at a time; "
                "define __getitem__"
            )
        return samples[0]
