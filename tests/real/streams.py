"""Datasets that defer, at the top of a module so that any start method can send them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from hatchway import Deferred, DeferredDataset
from tests.real.augmented import draw
from tests.real.gates import CONTEXT, PATIENCE_S, Gated

NUM_ITEMS = 23


def tensor_of(number: int) -> torch.Tensor:
    return torch.tensor([number])


def noisy(number: int) -> tuple[int, list[float]]:
    return number, draw()


def failing(number: int) -> torch.Tensor:
    if number == 5:
        raise KeyError("sample 5")
    return tensor_of(number)


def total(array: np.ndarray[Any, Any]) -> torch.Tensor:
    array += 1  # its own copy
    return torch.tensor([int(array.sum())])


def share_of(num_items: int) -> range:
    """The items of this process, by ``get_worker_info``."""
    info = get_worker_info()
    if info is None:
        return range(num_items)
    return range(info.id, num_items, info.num_workers)


class Numbers(DeferredDataset[Any]):
    """Yields ``Deferred(make, n)`` for its share of the numbers."""

    def __init__(
        self, num_items: int = NUM_ITEMS, make: Any = tensor_of, num_readers: int = 1
    ) -> None:
        self.num_items = num_items
        self.make = make
        self.num_readers = num_readers

    def __iter__(self) -> Iterator[Any]:
        for number in share_of(self.num_items):
            yield Deferred(self.make, number)


class Eager(IterableDataset[Any]):
    """The same samples, finished while they are read."""

    def __init__(self, stream: Numbers) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[Any]:
        for item in self.stream:
            yield item() if isinstance(item, Deferred) else item


class Mixed(Numbers):
    """Every third sample comes finished, every fifth is deferred twice."""

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            (number,) = item.args
            if number % 3 == 0:
                yield item()
            else:
                yield Deferred(Deferred, *(item.func, number)) if number % 5 == 0 else item


class Unmarked(IterableDataset[Any]):
    """Yields deferred samples without saying so."""

    def __iter__(self) -> Iterator[Any]:
        for number in share_of(NUM_ITEMS):
            yield Deferred(tensor_of, number) if number % 2 else tensor_of(number)


def through_gates(number: int) -> torch.Tensor:
    """Sample ``number`` of the gated dataset that the stream carries."""
    info = get_worker_info()
    assert info is not None
    sample: torch.Tensor = info.dataset.gated[number]
    return sample


class GatedStream(DeferredDataset[Any]):
    """Defers the samples of a :class:`Gated` dataset, and counts what was read.

    Args:
        gated: Says which samples wait for what.
        stops_at: The item before which the reader waits until :attr:`gate` is set.
    """

    def __init__(self, gated: Gated, stops_at: int | None = None) -> None:
        self.gated = gated
        self.stops_at = stops_at
        self.gate: Any = CONTEXT.Event()
        self.num_read: Any = CONTEXT.RawValue("i", 0)

    def __iter__(self) -> Iterator[Any]:
        for number in range(len(self.gated)):
            if number == self.stops_at and not self.gate.wait(PATIENCE_S):
                raise TimeoutError("the reader's gate stayed shut")
            self.num_read.value += 1
            yield Deferred(through_gates, number)


class Breaking(Numbers):
    """Raises, or kills its reader, before item ``at``."""

    def __init__(self, at: int, *, kills: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.at = at
        self.kills = kills

    def __iter__(self) -> Iterator[Any]:
        for number, item in enumerate(super().__iter__()):
            if number == self.at and self.kills:
                os.kill(os.getpid(), signal.SIGKILL)
            if number == self.at:
                raise LookupError("no more shards")
            yield item


class Shuffled(DeferredDataset[Any]):
    """Numbers in an order that comes from the reader's generators, and noise."""

    def __iter__(self) -> Iterator[Any]:
        for number in torch.randperm(NUM_ITEMS).tolist():
            yield Deferred(noisy, number)


class Epochs(DeferredDataset[Any]):
    """Begins with its epoch, which ``set_epoch`` sets, then its own count of passes."""

    def __init__(self) -> None:
        self.epoch = 0
        self.num_passes = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        self.num_passes += 1
        yield Deferred(tensor_of, self.epoch)
        yield Deferred(tensor_of, self.num_passes)


class SharedEpoch(DeferredDataset[Any]):
    """Has its epoch in memory that the readers share."""

    def __init__(self) -> None:
        self.epoch: Any = CONTEXT.Value("i", 0)

    def __iter__(self) -> Iterator[Any]:
        yield Deferred(tensor_of, self.epoch.value)


class Moving(DeferredDataset[Any]):
    """Has a state of its own: each pass begins where the state says."""

    def __init__(self) -> None:
        self.first = 0

    def state_dict(self) -> dict[str, int]:
        return {"first": self.first}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.first = state["first"]

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.first, self.first + NUM_ITEMS):
            yield Deferred(noisy, number)


class Unsettled(DeferredDataset[Any]):
    """Yields something else each time that it is read."""

    def __iter__(self) -> Iterator[Any]:
        for number in range(NUM_ITEMS):
            yield Deferred(len, os.urandom(8) + bytes(number))


class Bulky(DeferredDataset[Any]):
    """Items of ``item_bytes`` bytes each, counted as they are read."""

    def __init__(self, num_items: int, item_bytes: int) -> None:
        self.num_items = num_items
        self.item_bytes = item_bytes
        self.num_read: Any = CONTEXT.RawValue("i", 0)

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.num_items):
            self.num_read.value += 1
            yield Deferred(total, np.full(self.item_bytes // 8, number))
