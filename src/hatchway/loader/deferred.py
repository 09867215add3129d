"""Iterable datasets that leave the expensive part of a sample to the workers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch.utils.data import IterableDataset

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Deferred(functools.partial[T]):
    """A sample that is still to be made: ``function(*args, **keywords)`` makes it.

    What a :class:`DeferredDataset` yields. It travels to a worker, so that function and
    arguments must be picklable: a function at the top level of a module, bytes, strings,
    numbers, arrays, tensors. The worker's copy of the arguments is its own.
    """


class DeferredDataset(IterableDataset[T_co]):
    """An iterable dataset that yields :class:`Deferred` samples, finished ones, or both.

    Its ``__iter__`` does what must be done in order and is cheap: it reads shards. A
    ``hatchway.DataLoader`` reads it in a process beside its workers and runs the deferred
    parts as it runs the samples of a map-style dataset.

    Attributes:
        num_readers: How many processes read it. Each has a copy of the dataset, which must
            yield its own share: ``torch.utils.data.get_worker_info()`` gives ``id`` and
            ``num_workers`` of the reader. The batches of the readers come in turn, as
            torch's workers give them.
    """

    num_readers: int = 1


def finished(item: Any) -> Any:
    """The sample itself, also if it was deferred more than once."""
    while isinstance(item, Deferred):
        item = item()
    return item


def num_readers_of(dataset: Any) -> int:
    """The ``num_readers`` of a dataset, checked.

    Raises:
        ValueError: If it is no positive int.
    """
    num_readers = dataset.num_readers
    if type(num_readers) is not int or num_readers < 1:
        raise ValueError(
            f"num_readers of {type(dataset).__name__} must be an int of at least 1, "
            f"not {num_readers!r}"
        )
    return num_readers


class FinishingCollate:
    """Finishes what a dataset without the mark deferred, then calls ``collate_fn``.

    Such a dataset is read by torch's own workers: the one that read a sample finishes it.
    """

    def __init__(self, collate_fn: Callable[[Any], Any]) -> None:
        self._collate_fn = collate_fn

    def __call__(self, samples: Any) -> Any:
        """Collate a list of samples, or convert one."""
        if isinstance(samples, Deferred):
            samples = finished(samples)
        elif type(samples) is list and any(isinstance(one, Deferred) for one in samples):
            samples = [finished(one) for one in samples]
        return self._collate_fn(samples)
