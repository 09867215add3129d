"""Begins a pass over a loader: which iterator it is."""

from __future__ import annotations

import copy
from typing import Any

from torch.utils.data import DataLoader as TorchLoader

from hatchway.loader.access import is_deferred, is_iterable
from hatchway.loader.deferred import FinishingCollate
from hatchway.loader.iterable import on_device
from hatchway.loader.iterator import ParallelIterator
from hatchway.loader.serial import SerialIterator
from hatchway.loader.streamed import StreamedIterator, StreamedSerialIterator


def begin(loader: Any) -> Any:
    """The iterator of a new pass over ``loader``: torch's own for an ``IterableDataset``."""
    if is_iterable(loader.dataset):
        twin = copy.copy(loader)
        twin.collate_fn = FinishingCollate(loader.collate_fn)
        if loader.device is not None:
            return on_device(twin)
        return TorchLoader._get_iterator(twin)
    is_stream = is_deferred(loader.dataset)
    if loader.num_workers == 0:
        return StreamedSerialIterator(loader) if is_stream else SerialIterator(loader)
    if loader.num_workers < 0:  # set after the loader was made, which checked it
        raise ValueError(f"num_workers must be at least 0, not {loader.num_workers}")
    loader.check_worker_number_rationality()
    return StreamedIterator(loader) if is_stream else ParallelIterator(loader)
