"""What a process of a loader does first, and how it sees that the training process is gone."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
from multiprocessing import parent_process
from typing import Any

import numpy as np
import torch
from torch.utils.data._utils import worker as torch_worker

from hatchway.loader.collating import keep_off_shared_memory


def become(name: str, number: int, of_all: int, base_seed: int, dataset: Any) -> None:
    """Make this process what torch's worker is to the user's code.

    Args:
        name: What the system shows.
        number: The ``id`` in ``get_worker_info()``.
        of_all: The ``num_workers`` there.
        base_seed: As torch draws it.
        dataset: The ``dataset`` there.
    """
    # The training process gets the same Ctrl-C and stops its processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A handler of the training script's, inherited by fork, is not meant for them.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(AttributeError):
        torch.multiprocessing._set_thread_name(name)
    torch.set_num_threads(1)
    # What was there before the fork is not garbage: collections pass over it, and
    # do not copy its pages by touching them.
    gc.freeze()
    torch.manual_seed(base_seed + number)  # of every device
    seed_like_torch(base_seed, number)
    torch_worker._worker_info = info_of(number, of_all, base_seed, dataset)
    keep_off_shared_memory()


def seed_like_torch(base_seed: int, number: int) -> None:
    """Seed the three global generators as torch does for its worker of this number."""
    random.seed(base_seed + number)
    torch.default_generator.manual_seed(base_seed + number)
    np.random.seed(torch_worker._generate_state(base_seed, number))


def info_of(number: int, of_all: int, base_seed: int, dataset: Any) -> Any:
    """What ``torch.utils.data.get_worker_info()`` returns in a process."""
    return torch_worker.WorkerInfo(
        id=number, num_workers=of_all, seed=base_seed + number, dataset=dataset
    )


def watch_parent() -> int | None:
    """A descriptor that becomes readable when the training process ends."""
    parent = parent_process()
    if parent is not None and parent.pid is not None and hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            return os.pidfd_open(parent.pid)
    return None if parent is None else parent.sentinel
