"""Ten dataset shapes, at the top of a module so that any start method can send them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

NUM_SAMPLES = 23


def number_of(key: Any) -> int:
    """The sample that a key of any type stands for: 3, np.int64(3), "s3", (3, "x")."""
    if isinstance(key, tuple):
        return int(key[0])
    return int(key[1:]) if isinstance(key, str) else int(key)


class Samples(Dataset[Any]):
    """``make(number)`` for each number; keys as :func:`number_of` takes them."""

    def __init__(self, make: Callable[[int], Any], num_samples: int = NUM_SAMPLES) -> None:
        self.make = make
        self.num_samples = num_samples

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, key: Any) -> Any:
        return self.make(number_of(key))


class Point(NamedTuple):
    x: torch.Tensor
    y: float


class Volume:
    """A class of the user's, with a tensor in it."""

    def __init__(self, values: torch.Tensor, name: str) -> None:
        self.values = values
        self.name = name


def fixed(number: int) -> Any:
    generator = torch.Generator().manual_seed(number)
    return torch.rand(3, 4, generator=generator), number % 5


def ragged(number: int) -> Any:
    return torch.arange(number % 6, dtype=torch.float32) + number, number


def nested(number: int) -> Any:
    return {
        "image": {"left": torch.full((2, 3), number, dtype=torch.uint8), "gain": number / 3},
        "boxes": (np.full((4,), number, np.float64), [torch.tensor(number), number]),
        "point": Point(torch.full((2,), number, dtype=torch.float16), float(number)),
    }


def strings(number: int) -> Any:
    return f"caption {number} \N{SNOWMAN}" * (number % 4), b"\0" * number, number


def empty(number: int) -> Any:
    return torch.zeros(0), torch.zeros(2, 0, 3, dtype=torch.int64), np.zeros((0, 4)), number


def large(number: int) -> Any:
    return torch.full((1 << 14,), number, dtype=torch.int32), number


def tiny(number: int) -> Any:
    return number


def slow(number: int) -> Any:
    if number % 6 == 1:
        time.sleep(0.006)  # what this sample costs
    return torch.tensor([number, -number])


def failing(number: int) -> Any:
    if number % 7 == 3:
        raise KeyError(f"sample {number}")
    return torch.tensor([number])


def own_class(number: int) -> Any:
    return Volume(torch.full((number % 3 + 1, 2), number), f"scan {number}"), None


def as_list(samples: Any) -> Any:
    return samples


def pad(samples: Any) -> Any:
    values, numbers = zip(*samples, strict=True)
    padded = torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True, padding_value=-1)
    return padded, torch.tensor([len(value) for value in values]), torch.tensor(numbers)


def unbatch(batch: Any) -> list[Any]:
    """The samples in a batch that ``default_collate`` made."""
    if isinstance(batch, torch.Tensor):
        return list(batch)
    if isinstance(batch, dict):
        columns = [unbatch(column) for column in batch.values()]
        return [dict(zip(batch, row, strict=True)) for row in zip(*columns, strict=True)]
    if all(isinstance(item, str | bytes) for item in batch):
        return list(batch)
    return list(zip(*(unbatch(column) for column in batch), strict=True))


def unpad(batch: Any) -> list[Any]:
    values, lengths, numbers = batch
    lengths = lengths.tolist()
    return [(row[:n], k) for row, n, k in zip(values, lengths, numbers, strict=True)]


@dataclass(frozen=True)
class Shape:
    """A kind of dataset, with the collate function that fits it and its inverse."""

    make: Callable[[int], Any]
    collate_fn: Callable[[Any], Any] | None = None
    unbatch: Callable[[Any], list[Any]] = unbatch


SHAPES = {
    "fixed": Shape(fixed),
    "ragged": Shape(ragged, pad, unpad),
    "nested dict": Shape(nested),
    "strings": Shape(strings),
    "empty tensors": Shape(empty),
    "large": Shape(large),
    "tiny": Shape(tiny),
    "slow": Shape(slow),
    "failing": Shape(failing),
    "custom collate": Shape(own_class, as_list, list),
}


def frozen(value: Any) -> Any:
    """A hashable picture of a batch: types, dtypes, shapes, strides and every bit."""
    kind = type(value).__name__
    if isinstance(value, torch.Tensor):
        content = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        # Strides of no elements mean nothing, and say different things.
        strides = value.stride() if value.numel() else ()
        return kind, str(value.dtype), tuple(value.shape), strides, content
    if isinstance(value, np.ndarray):
        return kind, value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return kind, tuple((key, frozen(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return kind, tuple(frozen(item) for item in value)
    if isinstance(value, Volume):
        return kind, frozen(value.values), value.name
    return kind, value
