"""Blocks that a device reads directly: which, how many, and until when."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hatchway.loader.board import Block, Board, BoardShape
from hatchway.loader.heap import Heap
from hatchway.loader.registration import LEAST_BYTES, Registration, address_of
from hatchway.loader.shared import SharedMapping
from tests.recorder import RecordingCuda

BUDGET = 16 * LEAST_BYTES
MOST = 4


class Buffer(SimpleNamespace):
    """Stands for the commons: a heap over a real mapping."""

    def map_again(self) -> Any:
        return self.mapping.map_again()


@pytest.fixture
def buffer() -> Iterator[Buffer]:
    shape = BoardShape(positions=1, homes=1, outgoing=1, members=1, workers=1, blocks=40)
    board = Board(bytearray(Board.buffer_bytes(shape)), shape)
    mapping = SharedMapping(4 * BUDGET)
    heap = Heap(board, budget_bytes=BUDGET, address_bytes=4 * BUDGET, give_back=mapping.give_back)
    yield Buffer(board=board, mapping=mapping, heap=heap)
    mapping.close()
    mapping.memory.close()


def blocks_of(buffer: Buffer, count: int, size: int = LEAST_BYTES) -> list[int]:
    blocks = [buffer.heap.allocate(size, 0) for _ in range(count)]
    assert min(blocks) >= 0
    return blocks


def test_a_block_is_registered_when_a_second_batch_comes_in_it(buffer: Buffer) -> None:
    cuda = RecordingCuda()
    registration = Registration(buffer, cuda)  # type: ignore[arg-type]
    (block,) = blocks_of(buffer, 1)
    assert registration.view(block, 64) is None
    assert not cuda.registered
    for _ in range(3):
        view = registration.view(block, 64)
        assert view is not None
        assert registration.holds(block, view)
        assert cuda.registered == {address_of(view): LEAST_BYTES}
    del view
    registration.close()


def test_what_is_registered_is_the_memory_that_workers_write(buffer: Buffer) -> None:
    registration = Registration(buffer, RecordingCuda())  # type: ignore[arg-type]
    blocks = blocks_of(buffer, 2)
    for block in (*blocks, *blocks):
        registration.view(block, 8)
    offset = buffer.board.block_offset.cells[blocks[1]]
    plain = memoryview(buffer.mapping.memory)[offset : offset + 8]
    plain[:] = b"a sample"
    view = registration.view(blocks[1], 8)
    assert bytes(view) == b"a sample"  # type: ignore[arg-type]
    assert not registration.holds(blocks[1], plain)
    del view, plain
    registration.close()


def test_the_memory_of_a_registered_block_is_never_given_back(buffer: Buffer) -> None:
    registration = Registration(buffer, RecordingCuda())  # type: ignore[arg-type]
    blocks = blocks_of(buffer, 2)
    for _ in range(2):
        registration.view(blocks[0], 8)
    for block in blocks:
        buffer.heap.release(block)
    buffer.heap.give_back_free()
    states = buffer.board.block_state.cells
    assert [states[block] for block in blocks] == [Block.FREE, Block.PUNCHED]
    registration.close()
    buffer.heap.give_back_free()
    assert [states[block] for block in blocks] == [Block.PUNCHED, Block.PUNCHED]


def test_a_quarter_of_the_buffer_is_registered_at_most(buffer: Buffer) -> None:
    cuda = RecordingCuda()
    registration = Registration(buffer, cuda)  # type: ignore[arg-type]
    blocks = blocks_of(buffer, MOST + 3)
    for block in blocks + blocks:
        registration.view(block, 8)
    assert sum(cuda.registered.values()) == BUDGET // 4
    assert [registration.view(block, 8) is not None for block in blocks] == [True] * MOST + [
        False
    ] * 3
    registration.close()
    assert not cuda.registered


def test_small_blocks_are_not_registered(buffer: Buffer) -> None:
    cuda = RecordingCuda()
    registration = Registration(buffer, cuda)  # type: ignore[arg-type]
    (block,) = blocks_of(buffer, 1, LEAST_BYTES - 4096)
    for _ in range(3):
        assert registration.view(block, 8) is None
    assert not cuda.num_registrations


@pytest.mark.parametrize("why", ["the driver refuses", "no addresses are left"])
def test_a_refusal_is_no_error_and_the_last_try(why: str, buffer: Buffer) -> None:
    cuda = RecordingCuda(registers=why != "the driver refuses")
    if cuda.registers:
        buffer.mapping.map_again = _no_addresses
    registration = Registration(buffer, cuda)  # type: ignore[arg-type]
    blocks = blocks_of(buffer, 2)
    for _ in range(2):
        assert registration.view(blocks[0], 8) is None
    cuda.registers = True
    for _ in range(3):
        assert registration.view(blocks[1], 8) is None
    assert not buffer.board.block_pinned.array.any()
    registration.close()


def _no_addresses() -> Any:
    raise OSError(12, "Cannot allocate memory")


def test_views_stay_valid_when_nothing_is_registered_any_more(buffer: Buffer) -> None:
    registration = Registration(buffer, RecordingCuda())  # type: ignore[arg-type]
    (block,) = blocks_of(buffer, 1)
    registration.view(block, 8)
    view = registration.view(block, 8)
    assert view is not None
    view[:] = b"is there"
    registration.close()
    registration.close()
    assert np.frombuffer(view, np.uint8).tobytes() == b"is there"
