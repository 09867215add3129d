"""Blocks of shared memory: allocated under the lock, released by anyone.

A released block keeps its memory, warm and mapped, for the next block of its
size class: a first touch costs 3 to 5 microseconds for each 4 KiB, a reuse
nothing. When another size needs the room, the memory of free blocks is given
back to the kernel and only their address range remains.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

import numpy as np

from hatchway.loader.board import Block, Board, Head
from hatchway.loader.errors import SharedMemoryError

# The kernel takes whole pages back only: every block is whole pages.
_PAGE = mmap.PAGESIZE
# The mapping is sparse and larger than the budget, so that blocks of many sizes
# find an address without moving.
ADDRESSES_PER_BYTE = 4


def size_class(nbytes: int) -> int:
    """The block size for ``nbytes``: whole pages, at most an eighth more than needed."""
    step = max(_PAGE, 1 << max(0, (nbytes - 1).bit_length() - 4))
    return max(1, -(-nbytes // step)) * step


class Heap:
    """Allocator of the loader's buffer, at most ``budget_bytes`` resident.

    Args:
        board: Holds the table of blocks.
        budget_bytes: Bound of the memory of all blocks together.
        address_bytes: Size of the (sparse) mapping, several times the budget.
        give_back: Called with (offset, nbytes) to return a free block's memory;
            says whether that could be done.
        reserve: Called with (offset, nbytes) before memory is used for the first
            time; raises where the file system has no room.
    """

    def __init__(
        self,
        board: Board,
        *,
        budget_bytes: int,
        address_bytes: int,
        give_back: Callable[[int, int], bool],
        reserve: Callable[[int, int], None] | None = None,
    ) -> None:
        self.budget_bytes = budget_bytes
        self._board = board
        self._address_bytes = address_bytes
        self._give_back = give_back
        self._reserve = reserve

    def allocate(self, nbytes: int, owner: int, *, over_budget: bool = False) -> int:
        """The index of a block of at least ``nbytes``, or -1 when there is no room.

        The block belongs to ``owner`` (a worker's id) until :meth:`adopt`, so
        that it is not lost when that worker dies. Only the report of a failure
        may go ``over_budget``: that the buffer is full must be said, too.
        """
        board, size = self._board, size_class(nbytes)
        head = board.head
        count = head[Head.NUM_BLOCKS]
        states = board.block_state.array[:count]
        of_size = board.block_bytes.array[:count] == size
        free = np.flatnonzero(of_size & (states == Block.FREE))
        if len(free):
            return self._take(int(free[0]), owner)
        fits = head[Head.RESIDENT] + size <= self.budget_bytes or self._make_room(size)
        if not (fits or over_budget):
            return self._larger_free(size, owner)
        punched = np.flatnonzero(of_size & (states == Block.PUNCHED))
        block = int(punched[0]) if len(punched) else self._new_block(size)
        if block < 0:
            return -1
        if self._reserve is not None:
            self._take_from_file_system(board.block_offset.cells[block], size)
        head[Head.RESIDENT] += size
        head[Head.PEAK] = max(head[Head.PEAK], head[Head.RESIDENT])
        return self._take(block, owner)

    def adopt(self, block: int) -> None:
        """The block is now referred to by the board; its maker's death is no matter."""
        self._board.block_owner.cells[block] = 0

    def release(self, block: int) -> None:
        """Free a block. Needs no lock: one store, by whoever used it last."""
        self._board.block_state.cells[block] = Block.FREE

    def retire(self, block: int) -> None:
        """The board is about to forget the block; :meth:`free_retired` must follow.

        Between the two, :meth:`repair` can tell by the board whether it did.
        """
        self._board.block_state.cells[block] = Block.RETIRED

    def free_retired(self, block: int) -> None:
        """The board has forgotten the block: free it, or once it is not on loan."""
        if not self._is_lent(block):
            self.release(block)

    def lend(self, block: int, borrower: int) -> None:
        """``borrower`` still looks at a block that the board may retire."""
        word, bit = self._place_of(block, borrower)
        self._board.block_lent.cells[word] |= bit

    def take_back(self, block: int, borrower: int) -> None:
        """The borrower of a block looks at it no longer."""
        board = self._board
        word, bit = self._place_of(block, borrower)
        board.block_lent.cells[word] &= ~bit
        if board.block_state.cells[block] == Block.RETIRED and not self._is_lent(block):
            self.release(block)

    def _place_of(self, block: int, borrower: int) -> tuple[int, int]:
        """Which word says whether a block is lent to a worker, and which bit of it."""
        word, bit = divmod(borrower, 64)
        return block * self._board.shape.words + word, 1 << bit

    def _is_lent(self, block: int) -> bool:
        words = self._board.shape.words
        cells = self._board.block_lent.cells
        return any(cells[block * words + word] for word in range(words))

    def give_back_free(self) -> None:
        """Return the memory of all free blocks to the kernel."""
        self._punch_free(lambda: False)

    def used_bytes(self) -> int:
        """Bytes of the blocks that hold something."""
        count = self._board.head[Head.NUM_BLOCKS]
        states = self._board.block_state.array[:count]
        used = (states == Block.USED) | (states == Block.RETIRED)
        return int(self._board.block_bytes.array[:count][used].sum())

    def repair(self, referenced: set[int], dead: set[int], *, keeps_loans: bool = False) -> None:
        """Free what dead owners had not handed over, and count memory anew.

        Args:
            referenced: Blocks that the board refers to.
            dead: Those owners.
            keeps_loans: Whether they live, and look at what was lent to them.
        """
        board = self._board
        count = board.head[Head.NUM_BLOCKS]
        states, owners = board.block_state.array[:count], board.block_owner.array[:count]
        lent = board.block_lent.array.reshape(-1, board.shape.words)[:count]
        for one in () if keeps_loans else dead:
            if one < board.shape.workers:  # the training process borrows nothing
                lent[:, one // 64] &= ~np.uint64(1 << one % 64)
        for block in np.flatnonzero(owners > 0).tolist():
            if int(owners[block]) - 1 in dead:
                owners[block] = 0
                # The owner of a block that is not in use is history.
                if block not in referenced and states[block] == Block.USED:
                    states[block] = Block.FREE
        for block in np.flatnonzero(states == Block.RETIRED).tolist():
            if block in referenced:
                states[block] = Block.USED
            elif not lent[block].any():
                states[block] = Block.FREE
        sizes = board.block_bytes.array[:count]
        board.head[Head.RESIDENT] = int(sizes[states != Block.PUNCHED].sum())
        ends = (board.block_offset.array[:count] + sizes)[sizes > 0]
        board.head[Head.BUMP] = max(board.head[Head.BUMP], int(ends.max(initial=0)))

    def _take(self, block: int, owner: int) -> int:
        self._board.block_owner.cells[block] = owner + 1
        self._board.block_state.cells[block] = Block.USED
        return block

    def _larger_free(self, size: int, owner: int) -> int:
        """The smallest free block that is large enough, where memory cannot be given back."""
        board = self._board
        count = board.head[Head.NUM_BLOCKS]
        sizes = board.block_bytes.array[:count]
        fits = np.flatnonzero((board.block_state.array[:count] == Block.FREE) & (sizes >= size))
        return self._take(int(fits[np.argmin(sizes[fits])]), owner) if len(fits) else -1

    def _make_room(self, size: int) -> bool:
        """Give back free memory until ``size`` more bytes keep within the budget."""
        head = self._board.head
        self._punch_free(lambda: bool(head[Head.RESIDENT] + size <= self.budget_bytes))
        return bool(head[Head.RESIDENT] + size <= self.budget_bytes)

    def _punch_free(self, is_enough: Callable[[], bool]) -> None:
        """Give the memory of free blocks back, the largest first, until it is enough."""
        board = self._board
        count = board.head[Head.NUM_BLOCKS]
        states, sizes = board.block_state.array[:count], board.block_bytes.array[:count]
        # What a device reads directly stays: it would go on reading what was there.
        free = np.flatnonzero((states == Block.FREE) & (board.block_pinned.array[:count] == 0))
        for block in free[np.argsort(sizes[free])[::-1]].tolist():
            if is_enough():
                break
            if not self._give_back(board.block_offset.cells[block], int(sizes[block])):
                break
            states[block] = Block.PUNCHED
            board.head[Head.RESIDENT] -= int(sizes[block])

    def _take_from_file_system(self, offset: int, size: int) -> None:
        """Reserve memory, if need be instead of that of free blocks."""
        assert self._reserve is not None
        try:
            self._reserve(offset, size)
        except SharedMemoryError:
            self._punch_free(lambda: False)
            self._reserve(offset, size)

    def _new_block(self, size: int) -> int:
        """A block of exactly ``size`` bytes without memory, or -1."""
        board, head = self._board, self._board.head
        if head[Head.BUMP] + size > self._address_bytes:
            self._join_unused()
        block = self._unused_entry()
        if block < 0:
            return -1
        if head[Head.BUMP] + size <= self._address_bytes:
            offset = head[Head.BUMP]
            head[Head.BUMP] += size
        else:
            offset = self._carve(size)
            if offset < 0:
                return -1
        board.block_offset.cells[block] = offset
        board.block_state.cells[block] = Block.PUNCHED
        board.block_bytes.cells[block] = size
        return block

    def _unused_entry(self) -> int:
        """An entry of the table that stands for no address range, or -1."""
        board, head = self._board, self._board.head
        count = head[Head.NUM_BLOCKS]
        unused = np.flatnonzero(board.block_bytes.array[:count] == 0)
        if len(unused):
            return int(unused[0])
        if count == board.shape.blocks:
            self._join_unused()
            unused = np.flatnonzero(board.block_bytes.array[:count] == 0)
            return int(unused[0]) if len(unused) else -1
        head[Head.NUM_BLOCKS] = count + 1
        return int(count)

    def _join_unused(self) -> None:
        """Join neighbouring address ranges that hold nothing.

        Whoever dies here loses addresses at worst: no two entries ever overlap.
        """
        self._punch_free(lambda: False)
        board, head = self._board, self._board.head
        count = head[Head.NUM_BLOCKS]
        sizes, offsets = board.block_bytes.array[:count], board.block_offset.array[:count]
        unused = np.flatnonzero((board.block_state.array[:count] == Block.PUNCHED) & (sizes > 0))
        last = -1
        for block in unused[np.argsort(offsets[unused])].tolist():
            size = int(sizes[block])
            if last >= 0 and offsets[last] + sizes[last] == offsets[block]:
                sizes[block] = 0
                sizes[last] += size
            else:
                last = block
        if last >= 0 and offsets[last] + sizes[last] == head[Head.BUMP]:
            sizes[last], head[Head.BUMP] = 0, int(offsets[last])

    def _carve(self, size: int) -> int:
        """The offset of ``size`` bytes cut off an unused address range, or -1."""
        board = self._board
        count = board.head[Head.NUM_BLOCKS]
        sizes = board.block_bytes.array[:count]
        fits = np.flatnonzero((board.block_state.array[:count] == Block.PUNCHED) & (sizes >= size))
        if not len(fits):
            return -1
        block = int(fits[np.argmin(sizes[fits])])
        sizes[block] -= size
        return int(board.block_offset.cells[block] + sizes[block])
