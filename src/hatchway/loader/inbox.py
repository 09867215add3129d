"""Batches as the training process gets them: views of shared memory, or copies."""

from __future__ import annotations

import os
from collections import deque
from typing import Any

import numpy as np

from hatchway.loader import payload
from hatchway.loader.board import Head, Kind
from hatchway.loader.commons import Commons
from hatchway.loader.delivery import Delivered
from hatchway.loader.failure import Failure
from hatchway.loader.lease import BlockLease
from hatchway.loader.rows import RowLayout
from hatchway.loader.store import read_layout


class Inbox:
    """Opens delivered batches.

    A batch is a view; its memory is used again when the last tensor on it is
    gone and :meth:`release_dropped` is called. Once the batches that the loop
    keeps take a quarter of the buffer, further ones are copied into private
    memory, so that keeping them cannot stop the workers.
    """

    def __init__(self, commons: Commons) -> None:
        self._commons = commons
        self._held: dict[int, tuple[int, BlockLease]] = {}
        self._released: deque[BlockLease] = deque()
        self._pid = os.getpid()
        self._layout: RowLayout | None = None
        self.num_copied = 0

    def open(self, delivered: Delivered) -> Any:
        """The batch, or the :class:`Failure` that came in its place."""
        commons, block = self._commons, delivered.block
        count = len(delivered.positions)
        if delivered.kind == Kind.ERROR:
            # The failure holds no view of the block.
            failure: Failure = payload.load(commons.view(block, delivered.nbytes))
            commons.heap.release(block)
            return failure
        is_rows = delivered.kind == Kind.ROW
        if is_rows and self._layout is None:
            self._layout = read_layout(commons)
        nbytes = delivered.nbytes
        if is_rows and self._layout is not None:
            nbytes = self._layout.block_bytes(count)
        memory = self._memory(block, nbytes)
        if is_rows and self._layout is not None:
            return self._layout.batch(memory, count)
        return payload.load(memory)

    def _memory(self, block: int, nbytes: int) -> memoryview:
        commons, held = self._commons, self._held
        head = commons.board.head
        budget, size = commons.heap.budget_bytes, commons.board.block_bytes.cells[block]
        if head[Head.HELD] + size > budget // 4:
            private = np.frombuffer(commons.view(block, nbytes), np.uint8).copy()
            commons.heap.release(block)
            self.num_copied += 1
            return memoryview(private)
        memory, kept = commons.lease(block, nbytes, self._released)
        held[block] = (size, kept)
        head[Head.HELD] += size
        return memory

    def release_dropped(self) -> None:
        """Free the blocks of the batches that were dropped since the last time."""
        if not self._released or os.getpid() != self._pid:
            return  # in a forked process the batches are copies
        commons = self._commons
        while self._released:
            block = self._released.popleft().block
            size, _ = self._held.pop(block)
            commons.board.head[Head.HELD] -= size
            commons.heap.release(block)
        commons.wake_for_memory()
