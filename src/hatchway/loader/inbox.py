"""Batches as the training process gets them: views of shared memory, or copies."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np

from hatchway.loader import payload
from hatchway.loader.board import Head, Kind
from hatchway.loader.commons import Commons
from hatchway.loader.delivery import Delivered
from hatchway.loader.failure import Failure
from hatchway.loader.lease import BlockLease, lease_block
from hatchway.loader.rows import RowLayout
from hatchway.loader.store import read_layout


class Inbox:
    """Opens delivered batches.

    A batch is a view; its memory is used again when the last tensor on it is
    gone and :meth:`release_dropped` is called. Once the batches that the loop
    keeps take a quarter of the buffer, further ones are copied into private
    memory, so that keeping them cannot stop the workers.

    Attributes:
        num_copied: How many these were in this pass.
        num_ahead: How many batches of it were on their way to a device before they were asked for.
    """

    def __init__(self, commons: Commons) -> None:
        self._commons = commons
        self._held: dict[int, tuple[int, BlockLease]] = {}
        self._released: deque[BlockLease] = deque()
        self._pid = os.getpid()
        self._layout: RowLayout | None = None
        self.begin()

    def open(self, delivered: Delivered) -> Any:
        """The batch, or the :class:`Failure` that came in its place."""
        commons, block, count = self._commons, delivered.block, len(delivered.positions)
        if delivered.kind == Kind.ERROR:
            # The failure holds no view of the block.
            failure: Failure = payload.load(commons.view(block, delivered.nbytes))
            commons.heap.release(block)
            if failure.position is None or commons.config.rules.fixed:
                return failure
            others = delivered.positions[1:] - commons.board.head[Head.EPOCH_START]
            return replace(failure, other_positions=tuple(others.tolist()))
        memory = self._memory(block, self._size(delivered.kind, delivered.nbytes, count))
        return self._read(delivered.kind, memory, count)

    def begin(self) -> None:
        """Another pass begins."""
        self.num_copied = self.num_ahead = 0

    def close(self) -> None:
        """No batch will be opened any more; those that were stay valid."""

    def _size(self, kind: int, nbytes: int, count: int) -> int:
        """The bytes of a block that a batch of ``count`` samples takes."""
        return self._rows().block_bytes(count) if kind == Kind.ROW else nbytes

    def _read(self, kind: int, memory: memoryview, count: int) -> Any:
        """The batch that lies in ``memory``, as views of it."""
        return self._rows().batch(memory, count) if kind == Kind.ROW else payload.load(memory)

    def _rows(self) -> RowLayout:
        if self._layout is None:
            self._layout = read_layout(self._commons)
        return self._layout

    def _memory(self, block: int, nbytes: int) -> memoryview:
        """What lies in a block, leased; a copy once enough is kept."""
        commons = self._commons
        if not self._may_keep(block):
            private = np.frombuffer(commons.view(block, nbytes), np.uint8).copy()
            commons.heap.release(block)
            self.num_copied += 1
            return memoryview(private)
        memory = self._look(block, nbytes)
        self._lease(memory, block)
        return memory

    def _look(self, block: int, nbytes: int) -> memoryview:
        return self._commons.leasable(block, nbytes)

    def _may_keep(self, block: int) -> bool:
        """Whether a batch may stay in its block while the loop keeps it."""
        commons = self._commons
        kept = commons.board.head[Head.HELD] + commons.board.block_bytes.cells[block]
        return bool(kept <= commons.heap.budget_bytes // 4)

    def _lease(self, memory: memoryview, block: int) -> None:
        """The block is free again when nothing looks at ``memory`` any more."""
        board = self._commons.board
        size = board.block_bytes.cells[block]
        self._held[block] = (size, lease_block(memory, block, self._released))
        board.head[Head.HELD] += size

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
