"""Torch's own iterators, which read an ``IterableDataset``, with batches on a device."""

from __future__ import annotations

from typing import Any

from torch.utils.data.dataloader import (
    _BaseDataLoaderIter,
    _MultiProcessingDataLoaderIter,
    _SingleProcessDataLoaderIter,
)

from hatchway.loader.transfer import bring, transfer_to


class _OnDevice(_BaseDataLoaderIter):
    """Copies what the next class yields, in its turn."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self._transfer = transfer_to(loader.device)

    def _next_data(self) -> Any:
        return bring(self._transfer, super()._next_data())


class SerialStream(_OnDevice, _SingleProcessDataLoaderIter):
    """Without workers."""


class ParallelStream(_OnDevice, _MultiProcessingDataLoaderIter):
    """With workers."""


def on_device(loader: Any) -> _BaseDataLoaderIter:
    """An iterator over a loader of an iterable dataset."""
    if loader.num_workers == 0:
        return SerialStream(loader)
    loader.check_worker_number_rationality()
    return ParallelStream(loader)
