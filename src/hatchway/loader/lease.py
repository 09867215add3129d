"""Views of shared blocks that free the block when the last one is gone."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np


def lease(mapping: Any, offset: int, nbytes: int, on_release: Callable[[], None]) -> memoryview:
    """A view of ``mapping``; ``on_release`` runs once when nothing looks at it.

    Tensors and arrays made of (slices of) the view keep it alive. A process
    forked meanwhile has views of its own; the end of those releases nothing.
    """
    view = leasable(mapping, offset, nbytes)
    weakref.finalize(view.obj, _release, os.getpid(), on_release).atexit = False
    return view


def leasable(mapping: Any, offset: int, nbytes: int) -> memoryview:
    """A view of ``mapping`` whose end can be told: what is made of it keeps its ``obj`` alive."""
    return np.frombuffer(mapping, np.uint8, nbytes, offset).data


class BlockLease(weakref.ref[Any]):
    """Notes in a deque, once, that nothing looks at a block any more.

    Whoever wants to know keeps this object and looks into the deque. No Python
    code runs when the last view goes: an interrupt that met it there would be
    swallowed, as in every weak reference's callback.
    """

    __slots__ = ("block",)
    block: int


def lease_block(view: memoryview, block: int, released: deque[Any]) -> BlockLease:
    """The lease of a view by :func:`leasable`: put into ``released`` when nothing looks at it."""
    kept = BlockLease(view.obj, released.append)
    kept.block = block
    return kept


def _release(pid: int, on_release: Callable[[], None]) -> None:
    if os.getpid() == pid:
        on_release()
