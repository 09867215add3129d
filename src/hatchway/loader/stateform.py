"""What a saved state must look like, whoever wrote it: all of it is checked before any is used."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from hatchway.loader.errors import StateError
from hatchway.loader.script import decoded

_MOST = 1 << 62
# Ranks between delivered ones that were not: a pass leaves out fewer than it plans ahead.
MOST_MISSING = 1 << 22
_MOST_IN_A_BATCH = 1 << 22
_PLAIN = (type(None), bool, int, float, str)


def check_form(state: dict[str, Any], batch_size: int | None) -> None:
    """Refuse a state of the present version that no loader has saved so.

    Args:
        state: With the keys that it must have.
        batch_size: Of the loader that is to load it; None where batches may have any size.

    Raises:
        StateError: With what is wrong.
    """
    traits = _mapping(state["loader"], "loader", {"makes batches freely"})
    _must(all(type(one) in _PLAIN for one in traits.values()), "loader")
    most = batch_size or _MOST_IN_A_BATCH
    one, beginning = state["pass"], state["beginning"]
    _must((one is None) != (beginning is None), "pass")
    if one is None:
        _check_beginning(beginning, "beginning")
    else:
        _check_pass(one, "pass", most)
    order = state.get("order")
    if order is not None:
        _check_pass(order, "order", most)
        _must(order["record"] is not None, "order")
    _must(state.get("replay") in (None, "due", "now"), "replay")
    costs = _mapping(state["costs"], "costs", {"num_indices", "costs"})
    _whole(costs["num_indices"], "costs", _MOST)
    if costs["costs"] is not None:
        _must(isinstance(costs["costs"], bytes), "costs")
        for name in ("usual_s", "mean_s"):
            seconds = costs.get(name)
            is_number = isinstance(seconds, float) and math.isfinite(seconds)
            _must(is_number and costs[name] >= 0, "costs")


def _check_pass(one: Any, name: str, most: int) -> None:
    needed = {"number", "base_seed", "begun_by", "has_begun", "record", "progress"}
    _mapping(one, name, needed)
    _whole(one["number"], name, _MOST)
    _whole(one["base_seed"], name, 1 << 63)
    _must(type(one["has_begun"]) is bool, name)
    begun_by = one["begun_by"]
    _check_beginning(begun_by, name)
    _must(type(begun_by.get("draws_base_seed")) is bool, name)
    if one["record"] is not None:
        decoded(one["record"], most, MOST_MISSING)
    progress = _mapping(one["progress"], name, {"ranges", "num_homes", "digest"})
    _must(len(progress) == 3, name)
    _whole(progress["num_homes"], name, _MOST)
    if progress["digest"] is not None:
        _whole(progress["digest"], name, 1 << 32)
    _check_ranges(progress["ranges"], name)


def _check_ranges(ranges: Any, name: str) -> None:
    _must(isinstance(ranges, list | tuple), name)
    at = num_missing = 0
    for one in ranges:
        _must(isinstance(one, list | tuple) and len(one) == 2, name)
        for edge in one:
            _whole(edge, name, _MOST)
        begin, end = one
        _must(at <= begin < end, name)
        num_missing += begin - at
        at = end
    _must(num_missing <= MOST_MISSING, name)


def _check_beginning(beginning: Any, name: str) -> None:
    _mapping(beginning, name, {"generators", "global", "samplers"})
    _must(isinstance(beginning["generators"], list | tuple), name)
    for one in (*beginning["generators"], beginning["global"]):
        _must(isinstance(one, bytes), name)
        try:
            torch.Generator().set_state(torch.from_numpy(np.frombuffer(one, np.uint8).copy()))
        except RuntimeError as error:
            raise StateError(f"the state is damaged: {name}: {error}") from error
    _must(isinstance(beginning["samplers"], list | tuple), name)
    for one in beginning["samplers"]:
        _mapping(one, name, {"state", "epoch"})


def _mapping(one: Any, name: str, needed: set[str]) -> dict[str, Any]:
    _must(isinstance(one, dict), name)
    missing = needed - one.keys()
    if missing:
        raise StateError(f"the state is damaged: its {name!r} lacks {', '.join(sorted(missing))}")
    found: dict[str, Any] = one
    return found


def _whole(number: Any, name: str, end: int) -> None:
    _must(type(number) is int and 0 <= number < end, name)


def _must(holds: bool, name: str) -> None:
    if not holds:
        raise StateError(f"the state is damaged: its {name!r} is not what a loader saves")
