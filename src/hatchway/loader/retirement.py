"""What is delivered is forgotten: its slots, and the blocks that held it, are free again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hatchway.loader.board import Board, Head, Status
from hatchway.loader.heap import Heap
from hatchway.loader.kernel import Consumed

if TYPE_CHECKING:
    from hatchway.loader._native import BoardKernel


class Retirement:
    """Frees what delivered samples took. Every method holds the lock."""

    def __init__(self, board: Board, heap: Heap, kernel: BoardKernel | None = None) -> None:
        self._board = board
        self._heap = heap
        self._kernel = kernel

    def consume(self, positions: NDArray[np.int64]) -> None:
        """Forget samples that have been delivered, and free what held them.

        Twin: consume_home in native/loader/turns.hpp, for one home batch.
        """
        if not len(positions):
            return
        board = self._board
        first, end = int(positions[0]), int(positions[-1]) + 1
        is_run = end - first == len(positions)
        if is_run and self._kernel is not None:
            consumed = self._kernel.consume(first, end)
            if consumed == Consumed.BUT_HOMES:
                self.advance()
            if consumed != Consumed.UNCOMMON:
                return
        # Slices are several times as fast as lists of slots, and batches mostly are runs.
        places: list[Any] = board.slots(first, end) if is_run else [positions & board.mask]
        for place in places:
            blocks = board.block.array[place]
            if blocks.max() >= 0:
                held = blocks[blocks >= 0].tolist()
                for block in held:
                    self._heap.retire(block)
                board.block.array[place] = -1
                for block in held:
                    self._heap.free_retired(block)
            board.status.array[place] = Status.CONSUMED
        homes = board.home.cells[first & board.mask], board.home.cells[(end - 1) & board.mask]
        if homes[0] == homes[1]:
            self.free_home(homes[0])
        else:
            for home in np.unique(board.run_at(board.home, positions)).tolist():
                self.free_home(home)
        self.advance()

    def advance(self) -> None:
        """Move the tails over what is consumed."""
        board, head = self._board, self._board.head
        tail, end = head[Head.TAIL], head[Head.PUBLISHED]
        if tail < end and board.status.cells[tail & board.mask] == Status.CONSUMED:
            pending = np.flatnonzero(board.run(board.status, tail, end) != Status.CONSUMED)
            tail = tail + int(pending[0]) if len(pending) else end
            # Its slot will be another position's: what was started early moves no cursor.
            head[Head.CURSOR] = max(head[Head.CURSOR], tail)
            head[Head.TAIL] = tail
        home_tail = head[Head.HOME_TAIL]
        while home_tail < head[Head.HOMES]:
            slot = home_tail & board.home_mask
            if board.home_first.cells[slot] + board.home_count.cells[slot] > head[Head.TAIL]:
                break
            self.free_home(home_tail)  # what an abandoned epoch never began
            home_tail += 1
        head[Head.HOME_TAIL] = home_tail

    def free_home(self, home: int) -> None:
        """Free the blocks of a home batch that is consumed to the last sample."""
        board = self._board
        slot = home & board.home_mask
        first, count = board.home_first.cells[slot], board.home_count.cells[slot]
        if board.count(board.status, first, first + count, Status.CONSUMED) < count:
            return
        block, keys = board.home_block.cells[slot], board.home_keys.cells[slot]
        held = [one for one in (block, keys) if one >= 0]
        for one in held:
            self._heap.retire(one)
        board.home_block.cells[slot] = board.home_keys.cells[slot] = -1
        for one in held:
            self._heap.free_retired(one)
