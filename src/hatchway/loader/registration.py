"""Blocks of the shared buffer that a device reads directly, without a copy in pinned memory."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from hatchway.loader.commons import Commons
from hatchway.loader.cuda import Cuda
from hatchway.loader.lease import leasable

# Smaller batches gain nothing that a registration costs.
LEAST_BYTES = 1 << 16


class Registration:
    """Registers blocks with the driver, one by one, when a second batch comes in one.

    Registering pins memory, so it is bounded: a quarter of the buffer. A registered
    block is marked on the board, and its memory is not given back to the kernel: the
    driver would go on reading what the block held then.

    The driver sees a second mapping of the buffer: whatever it does to the first, a
    worker that is started later would inherit.

    Args:
        commons: The board and the buffer.
        cuda: The device.
    """

    def __init__(self, commons: Commons, cuda: Cuda) -> None:
        self._commons = commons
        self._cuda = cuda
        self._mapping: mmap.mmap | None = None
        self._left_bytes = commons.heap.budget_bytes // 4
        self._seen: set[int] = set()
        self._addresses: dict[int, int] = {}

    def view(self, block: int, nbytes: int) -> memoryview | None:
        """The first bytes of a block that a batch lies in; None where it is not registered."""
        if block not in self._addresses and not self._register(block):
            return None
        return self._view(block, nbytes)

    def holds(self, block: int, memory: memoryview) -> bool:
        """Whether a view of what lies in a block was made by :meth:`view`."""
        return self._addresses.get(block) == address_of(memory)

    def close(self) -> None:
        """Unregister every block; nothing may be copied from them any more."""
        while self._addresses:
            block, address = self._addresses.popitem()
            self._cuda.unregister(address)
            self._commons.board.block_pinned.cells[block] = 0
        self._mapping, self._left_bytes = None, 0

    def _register(self, block: int) -> bool:
        board = self._commons.board
        size = board.block_bytes.cells[block]
        if not LEAST_BYTES <= size <= self._left_bytes:
            return False
        if block not in self._seen:
            self._seen.add(block)
            return False
        if self._mapping is None:
            try:
                self._mapping = self._commons.map_again()
            except (OSError, ValueError):
                return self._refused()
        # Marked first: a batch lies in it, so that nobody gives it back meanwhile.
        board.block_pinned.cells[block] = 1
        address = address_of(self._view(block, size))
        if not self._cuda.register(address, size):
            board.block_pinned.cells[block] = 0
            return self._refused()
        self._addresses[block] = address
        self._left_bytes -= size
        return True

    def _refused(self) -> bool:
        self._left_bytes = 0  # the next would be refused, too
        return False

    def _view(self, block: int, nbytes: int) -> memoryview:
        mapping: Any = self._mapping
        offset = self._commons.board.block_offset.cells[block]
        return leasable(mapping, offset, nbytes)


def address_of(memory: memoryview) -> int:
    """Where it lies in this process."""
    return int(np.frombuffer(memory, np.uint8).ctypes.data)
