"""Views of shared blocks that free the block when the last one is gone."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np


def lease(mapping: Any, offset: int, nbytes: int, on_release: Callable[[], None]) -> memoryview:
    """A view of ``mapping``; ``on_release`` runs once when nothing looks at it.

    Tensors and arrays made of (slices of) the view keep it alive. A process
    forked meanwhile has views of its own; the end of those releases nothing.
    """
    base = np.frombuffer(mapping, np.uint8, nbytes, offset)
    weakref.finalize(base, _release, os.getpid(), on_release).atexit = False
    return base.data


def _release(pid: int, on_release: Callable[[], None]) -> None:
    if os.getpid() == pid:
        on_release()
