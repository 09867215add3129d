"""How large the tables of a pass over a loader are, and what its batches are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data._utils.collate import (
    collate_float_fn,
    collate_int_fn,
    collate_numpy_array_fn,
    collate_tensor_fn,
    default_collate,
    default_collate_fn_map,
)

from hatchway.loader.accelerated import filled_from
from hatchway.loader.commons import CommonsConfig
from hatchway.loader.options import (
    default_buffer_bytes,
    has_own_batches,
    lookahead_batches,
    most_seats,
)
from hatchway.loader.rules import DeliveryRules
from hatchway.loader.script import Script
from hatchway.loader.window import DEPTH, board_shape

_MOST_AHEAD = 1 << 16


def commons_config(
    loader: Any, free: bool, in_order: bool, num_workers: int, script: Script | None = None
) -> CommonsConfig:
    """What the commons of a pass over ``loader`` are made with.

    Args:
        loader: The user's.
        free: Whether batches are made of whatever is finished.
        in_order: Whether they leave in the sampler's order.
        num_workers: How many workers there may be in all.
        script: The recorded order that the pass is to have, or None.
    """
    window = lookahead_batches(loader, most_seats(loader))
    batch_size = loader.batch_size or 1
    shape = board_shape(
        window,
        batch_size,
        free=free,
        num_workers=num_workers,
        # The batches of the user's sampler may have any size, and their sizes are not known.
        num_positions=_MOST_AHEAD if has_own_batches(loader) else None,
        most_ahead=0 if script is None else script.most_ahead,
    )
    rules = DeliveryRules(
        fixed=not free,
        in_order=in_order,
        batch_size=batch_size,
        drop_last=bool(loader.drop_last),
        depth=DEPTH,
        rows_are_batch=_stacks(loader.collate_fn),
        max_displacement=loader.max_displacement if free else None,
        replays=script is not None,
        filled_from=filled_from(loader) if free else -1,
    )
    buffer_bytes = loader.buffer_bytes or default_buffer_bytes()
    return CommonsConfig(shape, rules, buffer_bytes)


def _stacks(collate_fn: Any) -> bool:
    """Whether batches of tensors, arrays and numbers are simply stacked."""
    expected = {
        torch.Tensor: collate_tensor_fn,
        np.ndarray: collate_numpy_array_fn,
        float: collate_float_fn,
        int: collate_int_fn,
    }
    known = default_collate_fn_map
    return collate_fn is default_collate and all(known.get(k) is f for k, f in expected.items())
