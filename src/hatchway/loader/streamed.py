"""Passes over a dataset that defers the expensive part of its samples.

The dataset is the sampler: what it yields stands where other samplers' keys stand, and the
workers make samples of it. So order, seeds, failures and states are those of any pass.
"""

from __future__ import annotations

import copy
import functools
import pickle
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data._utils import worker as torch_worker
from torch.utils.data.dataloader import _BaseDataLoaderIter

from hatchway.loader.deferred import num_readers_of
from hatchway.loader.errors import LoaderTimeoutError
from hatchway.loader.items import Item
from hatchway.loader.iterator import ParallelIterator
from hatchway.loader.process import info_of
from hatchway.loader.reader import ReaderTask, homes_of, seed_stream
from hatchway.loader.seeding import restore_generators, save_generators
from hatchway.loader.serial import SerialIterator
from hatchway.loader.state import Pass
from hatchway.loader.stream import Stream

# Of the buffer: what was read and is planned, and what the readers have read ahead of that.
_PLANNED_SHARE = 8
_AHEAD_SHARE = 16


class StreamedIterator(ParallelIterator):
    """Readers read the dataset, workers finish its samples."""

    _stream: Stream | None = None

    def __init__(self, loader: Any) -> None:
        self._num_readers = num_readers_of(loader.dataset)
        self._context = loader.multiprocessing_context or torch.multiprocessing
        self._reader_task = functools.partial(
            ReaderTask,
            dataset=loader.dataset,
            worker_init_fn=loader.worker_init_fn,
            num_readers=self._num_readers,
            batch_size=loader.batch_size or 1,
            drop_last=bool(loader.drop_last),
            most_homes=loader.prefetch_factor,
            seeds_each_pass=loader.seeding == "position",
        )
        self._read_from = b""
        super().__init__(loader)

    def __next__(self) -> Any:
        """The next batch; warns, as torch does, where there are more than ``len(loader)``."""
        expected: int | None = getattr(self, "_IterableDataset_len_called")  # noqa: B009
        if expected is not None:
            return _BaseDataLoaderIter.__next__(self)
        return super().__next__()

    def _begin(self, *, first: bool, was_over: bool = False) -> None:
        stream = self._stream = self._stream or self._make_stream()
        # As the dataset is here: another epoch was set, say, or a state was loaded.
        read_from = pickle.dumps(self._pass.begun_by["samplers"])
        is_other = self._pass.goes_on or read_from != self._read_from
        if is_other or stream.has_lost_readers():
            self._read_from = read_from
            stream.start()
        stream.begin(self._pass.base_seed, self._pass.number)
        self._sampler_iter = stream
        super()._begin(first=first, was_over=was_over)

    def _make_stream(self) -> Stream:
        commons = self._commons
        buffer_bytes = commons.config.buffer_bytes
        task = functools.partial(
            self._reader_task,
            commons=commons,
            base_seed=self._pass.base_seed,
            most_bytes=buffer_bytes // _AHEAD_SHARE // self._num_readers,
        )
        most_bytes = buffer_bytes // _PLANNED_SHARE
        return Stream(task, self._num_readers, self._context, commons, most_bytes)

    def _sleep(self, asked: float, *, holds_back: bool) -> None:
        try:
            super()._sleep(asked, holds_back=holds_back)
        except LoaderTimeoutError as error:
            said = "" if self._stream is None else f"; {self._stream.describe()}"
            raise LoaderTimeoutError(f"{error}{said}") from None

    def _shutdown_workers(self) -> None:
        if self._stream is not None:
            self._stream.stop()  # while the workers end
        super()._shutdown_workers()
        if self._stream is not None:
            self._stream.close()


class StreamedSerialIterator(SerialIterator):
    """Reads and finishes in the calling process: what the readers read, in their turns."""

    def _key_batches(self, loader: Any) -> Iterator[list[Any]]:
        num_readers = num_readers_of(loader.dataset)
        readers = [_ReaderHere(loader, self._pass, one, num_readers) for one in range(num_readers)]
        return _in_turn(readers)


class _ReaderHere:
    """Reads a dataset as a reader would, with its worker info and its generators."""

    def __init__(self, loader: Any, begun: Pass, reader_id: int, num_readers: int) -> None:
        self._pass = begun
        self._reader_id = reader_id
        # Each reader has a copy; one alone may as well be the user's own.
        dataset = loader.dataset if num_readers == 1 else copy.copy(loader.dataset)
        self._info = info_of(reader_id, num_readers, begun.base_seed, dataset)
        self._seeds = loader.seeding == "position"
        self._generators: Any = None
        drop_last = bool(loader.drop_last)
        self._homes = homes_of(dataset, loader.batch_size or 1, drop_last=drop_last)

    def next_home(self) -> list[Item] | None:
        """The next home batch; None at the end."""
        with self._in_place():
            home = next(self._homes, None)
        return None if home is None else [Item(value) for value in home]

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        info, torch_worker._worker_info = torch_worker._worker_info, self._info
        saved = save_generators() if self._seeds else None
        try:
            if self._seeds and self._generators is None:
                seed_stream(self._pass.base_seed, self._pass.number, self._reader_id)
            elif self._seeds:
                restore_generators(self._generators)
            yield
        finally:
            torch_worker._worker_info = info
            if saved is not None:
                self._generators = save_generators()
                restore_generators(saved)


def _in_turn(readers: list[_ReaderHere]) -> Iterator[list[Any]]:
    left = deque(readers)
    while left:
        reader = left.popleft()
        home = reader.next_home()
        if home is not None:
            left.append(reader)
            yield home
