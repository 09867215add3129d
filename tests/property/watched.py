"""Memory and a heap that notice what must not happen to blocks."""

from __future__ import annotations

import mmap

from hatchway.loader.board import Block
from hatchway.loader.heap import Heap

POISON = 0xEE


class Memory:
    """Stands for a SharedMapping."""

    has_fixed_size = False

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.memory = mmap.mmap(-1, nbytes)

    def give_back(self, offset: int, nbytes: int) -> bool:
        self.memory[offset : offset + nbytes] = bytes(nbytes)
        return True

    def populate(self, offset: int, nbytes: int) -> None:
        """Private memory is there when it is written."""

    def close(self) -> None:
        """The garbage collector does it."""


class WatchedHeap(Heap):
    """Notes a block that is freed twice, and poisons what is freed."""

    faults: list[str]
    memory: Memory

    def release(self, block: int) -> None:
        self._expect_used(block)
        board = self._board
        offset, nbytes = board.block_offset.cells[block], board.block_bytes.cells[block]
        self.memory.memory[offset : offset + nbytes] = bytes((POISON,)) * nbytes
        super().release(block)

    def retire(self, block: int) -> None:
        self._expect_used(block)
        super().retire(block)

    def _expect_used(self, block: int) -> None:
        state = self._board.block_state.cells[block]
        if state not in (Block.USED, Block.RETIRED):
            self.faults.append(f"block {block} was freed although its state was {state}")
