"""Keep ``default_collate`` in a worker from making shared memory of torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data._utils import worker as torch_worker
from torch.utils.data._utils.collate import collate_tensor_fn, default_collate_fn_map


def keep_off_shared_memory() -> None:
    """Let this worker's ``default_collate`` stack tensors in private memory.

    In a worker torch's puts each stacked tensor into a new file in ``/dev/shm``,
    for its own way to the training process. Here the batch is copied into the
    loader's buffer anyway.
    """
    if default_collate_fn_map.get(torch.Tensor) is collate_tensor_fn:
        default_collate_fn_map[torch.Tensor] = _collate_tensors


def _collate_tensors(batch: Any, *, collate_fn_map: Any = None) -> Any:
    """Torch's own function, for which this is no worker while it runs."""
    info, torch_worker._worker_info = torch_worker._worker_info, None
    try:
        return collate_tensor_fn(batch, collate_fn_map=collate_fn_map)
    finally:
        torch_worker._worker_info = info
