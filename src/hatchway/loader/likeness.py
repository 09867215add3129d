"""Whether a worker of one rank makes the samples that another rank's would make.

It has its own copy of the dataset, so that what it makes is the same only if the datasets
are. They are compared by what they say of themselves, as far as that is cheap.
"""

from __future__ import annotations

import functools
import hashlib
import os
from itertools import islice
from types import MethodType
from typing import Any

import numpy as np
import torch

from hatchway.loader import native
from hatchway.loader.options import fetches_batches, length_of

_DEEPEST = 3
_MOST_PARTS = 64
_LONGEST_TEXT = 4096
_LONGEST_NAME = 128
_PLAIN = (type(None), bool, int, float, complex, str, bytes, os.PathLike, np.generic, torch.dtype)


def traits_of(loader: Any) -> dict[str, str]:
    """What must be the same in two ranks, by names that a user knows."""
    traits = {
        "Hatchway's version": f"{native.ABI_VERSION}",
        "dataset (type)": _type_of(loader.dataset),
        "dataset (length)": f"{length_of(loader.dataset)}",
        "collate_fn": _hash_of(loader.collate_fn),
        "worker_init_fn": _hash_of(loader.worker_init_fn),
        "seeding": loader.seeding,
        "batched_fetch": f"{fetches_batches(loader)}",
        "persistent_workers": f"{loader.persistent_workers}",
        "batch_size (None or a number)": f"{not loader._auto_collation}",
    }
    for name, value in sorted(_parts_of(loader.dataset)):
        traits[f"dataset.{name}"[:_LONGEST_NAME]] = _hash_of(value)
    return traits


def difference(one: dict[str, str], other: dict[str, str]) -> str:
    """The name of the first trait that differs; empty if none does."""
    names = [*one, *(name for name in other if name not in one)]
    return next((name for name in names if one.get(name) != other.get(name)), "")


def _hash_of(value: Any) -> str:
    described = _describe(value, _DEEPEST).encode(errors="surrogatepass")
    return hashlib.blake2b(described, digest_size=8).hexdigest()


def _parts_of(value: Any) -> list[tuple[str, Any]]:
    try:
        return list(vars(value).items())[:_MOST_PARTS]
    except TypeError:
        return []


def _type_of(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _describe(value: Any, depth: int) -> str:
    """A value in words that are the same in each process where it is the same."""
    if isinstance(value, str | bytes) and len(value) > _LONGEST_TEXT:
        # Of a long one both ends: a dataset may lie in memory as one string of bytes.
        half = _LONGEST_TEXT // 2
        return f"{len(value)} {value[:half]!r} {value[-half:]!r}"
    if isinstance(value, _PLAIN):
        return f"{value!r}"
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{_type_of(value)} {tuple(value.shape)} {value.dtype}"
    if isinstance(value, list | tuple):
        # Of a long one both ends: a list of files may have millions.
        ends = value if len(value) <= 8 else (*value[:4], *value[-4:])
        return _nested(value, len(value), [("", one) for one in ends], depth)
    if isinstance(value, dict):
        some = [(repr(key), one) for key, one in islice(value.items(), 8)]
        return _nested(value, len(value), some, depth)
    if isinstance(value, functools.partial):
        parts = [("function", value.func), ("args", value.args), ("keywords", value.keywords)]
        return _nested(value, None, parts, depth)
    if callable(value) and hasattr(value, "__qualname__"):
        name = f"{getattr(value, '__module__', '')}.{value.__qualname__}"
        # What a function that was made within another one took from it, or whose method it is.
        parts = [("", _content(cell)) for cell in getattr(value, "__closure__", None) or ()]
        if isinstance(value, MethodType):
            parts.append(("self", value.__self__))
        return name if not parts else f"{name} {_nested(value, None, parts, depth)}"
    return _nested(value, None, sorted(_parts_of(value)), depth)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing is in it yet
        return None


def _nested(value: Any, length: int | None, parts: list[tuple[str, Any]], depth: int) -> str:
    inside = [f"{name}={_describe(one, depth - 1)}" for name, one in parts] if depth else []
    return f"{_type_of(value)} {length} [{', '.join(inside)}]"
