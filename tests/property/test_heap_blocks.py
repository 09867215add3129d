"""Blocks of the heap never overlap, never exceed the budget and are used again."""

from __future__ import annotations

import mmap
import os

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hatchway.loader.board import Block, Board, BoardShape, Head
from hatchway.loader.heap import Heap, size_class
from hatchway.loader.shared import SharedMapping

PAGE = mmap.PAGESIZE


@given(nbytes=st.integers(0, 1 << 40))
def test_a_size_class_is_large_enough_and_at_most_an_eighth_too_large(nbytes: int) -> None:
    size = size_class(nbytes)
    assert size >= max(1, nbytes)
    assert size % PAGE == 0
    assert size <= nbytes + max(PAGE, nbytes // 8)
    assert size_class(size) == size


@given(one=st.integers(0, 1 << 34), other=st.integers(0, 1 << 34))
def test_size_classes_grow_with_the_size(one: int, other: int) -> None:
    assert (size_class(one) <= size_class(other)) or one > other


class HeapMachine(RuleBasedStateMachine):
    """Allocations, releases, loans and deaths of owners, beside a plain model."""

    @initialize(
        budget=st.integers(4, 64), address_factor=st.integers(1, 8), can_give_back=st.booleans()
    )
    def start(self, budget: int, address_factor: int, can_give_back: bool) -> None:
        shape = BoardShape(positions=1, homes=1, outgoing=1, members=1, workers=4, blocks=24)
        self.board = Board(bytearray(Board.buffer_bytes(shape)), shape)
        self.budget = budget * 1024
        self.can_give_back = can_give_back
        self.heap = Heap(
            self.board,
            budget_bytes=self.budget,
            address_bytes=self.budget * address_factor,
            give_back=self.give_back,
        )
        self.used: dict[int, int] = {}  # block -> owner + 1
        self.lent: dict[int, set[int]] = {}  # block -> its borrowers
        self.retired: set[int] = set()
        self.pinned: set[int] = set()

    def give_back(self, offset: int, nbytes: int) -> bool:
        for block in self.used:
            begin = self.board.block_offset.cells[block]
            end = begin + self.board.block_bytes.cells[block]
            assert end <= offset or begin >= offset + nbytes, "memory in use was given back"
        offsets = self.board.block_offset.cells
        assert all(offsets[block] != offset for block in self.pinned), "a device reads it"
        assert offset % PAGE == nbytes % PAGE == 0
        return self.can_give_back

    @rule(nbytes=st.integers(1, 20_000), owner=st.integers(0, 3), adopted=st.booleans())
    def somebody_allocates(self, nbytes: int, owner: int, adopted: bool) -> None:
        block = self.heap.allocate(nbytes, owner)
        if block < 0:
            # Only where the rest is truly too small, or in pieces between blocks in use.
            free = self.budget - self.heap.used_bytes()
            is_split = self.used or self.pinned or not self.can_give_back
            assert free < size_class(nbytes) or is_split
            return
        assert block not in self.used
        assert self.board.block_bytes.cells[block] >= nbytes
        if adopted:
            self.heap.adopt(block)
        self.used[block] = 0 if adopted else owner + 1

    @precondition(lambda self: self.used)
    @rule(which=st.integers(0, 99))
    def a_block_is_released(self, which: int) -> None:
        block = sorted(self.used)[which % len(self.used)]
        if block not in self.lent:
            self.heap.release(block)
            del self.used[block]

    @precondition(lambda self: self.used)
    @rule(which=st.integers(0, 99))
    def a_device_reads_a_block_directly(self, which: int) -> None:
        block = sorted(self.used)[which % len(self.used)]
        self.board.block_pinned.cells[block] = 1
        self.pinned.add(block)

    @precondition(lambda self: self.pinned)
    @rule(which=st.integers(0, 99))
    def a_device_reads_it_no_more(self, which: int) -> None:
        block = sorted(self.pinned)[which % len(self.pinned)]
        self.board.block_pinned.cells[block] = 0
        self.pinned.discard(block)

    @precondition(lambda self: self.used)
    @rule(which=st.integers(0, 99), borrower=st.sampled_from([0, 1, 2, 3, 62]))
    def an_adopted_block_is_lent(self, which: int, borrower: int) -> None:
        block = sorted(self.used)[which % len(self.used)]
        if self.used[block] == 0 and block not in self.retired:
            self.heap.lend(block, borrower)
            self.lent.setdefault(block, set()).add(borrower)

    @precondition(lambda self: self.lent)
    @rule(which=st.integers(0, 99))
    def a_lent_block_is_forgotten_by_the_board(self, which: int) -> None:
        block = sorted(self.lent)[which % len(self.lent)]
        if block not in self.retired:
            self.heap.retire(block)
            self.heap.free_retired(block)
            self.retired.add(block)

    @precondition(lambda self: self.lent)
    @rule(which=st.integers(0, 99))
    def a_loan_ends(self, which: int) -> None:
        block = sorted(self.lent)[which % len(self.lent)]
        borrower = min(self.lent[block])
        self.heap.take_back(block, borrower)
        self.end_loan(block, borrower)

    @rule(owner=st.integers(0, 3))
    def an_owner_dies(self, owner: int) -> None:
        adopted = {block for block, who in self.used.items() if who == 0}
        self.heap.repair(adopted - self.retired, {owner})
        self.used = {block: who for block, who in self.used.items() if who != owner + 1}
        for block in list(self.lent):
            self.end_loan(block, owner)

    def end_loan(self, block: int, borrower: int) -> None:
        self.lent[block].discard(borrower)
        if not self.lent[block]:
            del self.lent[block]
            if block in self.retired:
                self.retired.discard(block)
                del self.used[block]

    @invariant()
    def blocks_are_sound(self) -> None:
        if not hasattr(self, "board"):
            return
        count = self.board.head[Head.NUM_BLOCKS]
        states = self.board.block_state.array[:count]
        sizes = self.board.block_bytes.array[:count]
        offsets = self.board.block_offset.array[:count]
        found = set(np.flatnonzero(states == Block.USED).tolist())
        assert found == set(self.used) - self.retired
        assert set(np.flatnonzero(states == Block.RETIRED).tolist()) == self.retired
        assert self.heap.used_bytes() == sum(int(sizes[block]) for block in self.used)
        resident = int(sizes[states != Block.PUNCHED].sum())
        assert self.board.head[Head.RESIDENT] == resident <= self.budget
        offsets, ends = offsets[sizes > 0], (offsets + sizes)[sizes > 0]
        assert (np.sort(offsets)[1:] >= np.sort(ends)[:-1]).all()
        assert (ends <= self.heap._address_bytes).all()


TestHeapMachine = HeapMachine.TestCase


def heap_of(budget: int, address_factor: int, num_entries: int) -> Heap:
    shape = BoardShape(positions=1, homes=1, outgoing=1, members=1, workers=4, blocks=num_entries)
    board = Board(bytearray(Board.buffer_bytes(shape)), shape)
    return Heap(
        board,
        budget_bytes=budget,
        address_bytes=budget * address_factor,
        give_back=lambda offset, nbytes: True,
    )


@given(sizes=st.lists(st.integers(1, 1 << 20), min_size=1, max_size=40))
def test_neither_addresses_nor_the_table_run_out_whatever_sizes_came_before(
    sizes: list[int],
) -> None:
    heap = heap_of(1 << 20, address_factor=2, num_entries=12)
    for nbytes in sizes:
        filled = []
        while len(filled) < 8 and (block := heap.allocate(nbytes, 0)) >= 0:
            filled.append(block)
        assert len(filled) == min(8, heap.budget_bytes // size_class(nbytes))
        for block in filled:
            heap.release(block)
        # A death makes the next visitor repair the heap; joined addresses stay joined.
        heap.repair(set(), {3})


@given(sizes=st.lists(st.integers(1, 1 << 18), min_size=1, max_size=30))
def test_the_kernel_never_holds_more_memory_than_the_budget(sizes: list[int]) -> None:
    budget = 1 << 19
    mapping = SharedMapping(8 * budget)
    shape = BoardShape(positions=1, homes=1, outgoing=1, members=1, workers=4, blocks=64)
    board = Board(bytearray(Board.buffer_bytes(shape)), shape)
    heap = Heap(
        board,
        budget_bytes=budget,
        address_bytes=mapping.nbytes,
        give_back=mapping.give_back,
    )
    memory = memoryview(mapping.memory)
    held: list[int] = []
    try:
        for nbytes in sizes:
            while (block := heap.allocate(nbytes, 0)) < 0:
                heap.release(held.pop(0))
            held.append(block)
            offset, size = board.block_offset.cells[block], board.block_bytes.cells[block]
            memory[offset : offset + size] = bytes((1,)) * size
            assert os.fstat(mapping.fd).st_blocks * 512 <= budget
    finally:
        memory.release()
        mapping.close()
