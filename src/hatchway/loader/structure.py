"""Batches of any structure: nests of containers, dataclasses and classes of the user's."""

from __future__ import annotations

import array
import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import torch

# Sequences that hold no tensor.
_FLAT = (str, bytes, bytearray, memoryview, range, array.array)


def mapped(value: Any, move: Callable[[Any], Any]) -> Any:
    """``value`` with ``move`` applied to its tensors, and to what has a method ``to``.

    Containers keep their type and what else they carry, as with torch's ``pin_memory``;
    dataclasses, too. Whatever holds nothing that moves is returned as it is.
    """
    if isinstance(value, torch.Tensor) or _can_move(value):
        return move(value)
    if isinstance(value, _FLAT):
        return value
    if isinstance(value, Mapping):
        changed = _changed(dict(value), move)
        return _mapping_with(value, changed) if changed else value
    if isinstance(value, Sequence):
        changed = _changed(dict(enumerate(value)), move)
        return _sequence_with(value, changed) if changed else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in dataclasses.fields(value) if hasattr(value, one.name)]
        changed = _changed({name: getattr(value, name) for name in names}, move)
        return _dataclass_with(value, changed) if changed else value
    return value


def _can_move(value: Any) -> bool:
    return callable(getattr(value, "to", None)) and not isinstance(value, type)


def _changed(items: dict[Any, Any], move: Callable[[Any], Any]) -> dict[Any, Any]:
    """Those of the items that are another object afterwards."""
    after = {key: mapped(item, move) for key, item in items.items()}
    return {key: item for key, item in after.items() if item is not items[key]}


def _mapping_with(value: Mapping[Any, Any], changed: dict[Any, Any]) -> Any:
    if isinstance(value, MutableMapping):
        clone: Any = copy.copy(value)
        clone.update(changed)
        return clone
    kind: Any = type(value)
    try:
        return kind({**value, **changed})
    except TypeError:
        return {**value, **changed}


def _sequence_with(value: Sequence[Any], changed: dict[int, Any]) -> Any:
    if isinstance(value, MutableSequence):
        clone = copy.copy(value)
        for place, item in changed.items():
            clone[place] = item
        return clone
    kind: Any = type(value)
    items = [changed.get(place, item) for place, item in enumerate(value)]
    if hasattr(value, "_fields"):
        return kind(*items)  # a namedtuple
    try:
        return kind(items)
    except TypeError:
        return items


def _dataclass_with(value: Any, changed: dict[str, Any]) -> Any:
    clone = copy.copy(value)
    for name, item in changed.items():
        object.__setattr__(clone, name, item)  # also where it is frozen
    return clone
