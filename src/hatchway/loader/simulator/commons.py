"""A board in private memory, with bells that plan events instead of waking processes."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

from hatchway.loader.board import Board, BoardShape, Head
from hatchway.loader.commons import Commons, CommonsConfig
from hatchway.loader.heap import ADDRESSES_PER_BYTE
from hatchway.loader.rules import DeliveryRules
from hatchway.loader.simulator.clock import Act

# Blocks are a page each, whatever samples take: memory never runs short here.
ROW_BLOCK_BYTES = mmap.PAGESIZE
_BUFFER_BYTES = 1 << 40


class SimulatedMapping:
    """Stands for a SharedMapping; only the board's memory is ever looked at."""

    has_fixed_size = False

    def __init__(self, board_bytes: int) -> None:
        self.memory = bytearray(board_bytes)
        self.nbytes = ADDRESSES_PER_BYTE * _BUFFER_BYTES

    def give_back(self, offset: int, nbytes: int) -> bool:
        """There is nothing to give back."""
        return True


class SimulatedBell:
    """Stands for a Bell: calls what was set to be called.

    Attributes:
        on_ring: What happens when it rings.
    """

    def __init__(self) -> None:
        self.on_ring: Act = lambda: None

    def ring(self) -> None:
        """Wake whoever sleeps by it."""
        self.on_ring()


def simulated_commons(shape: BoardShape, rules: DeliveryRules, num_seats: int) -> Commons:
    """The commons of one simulated loader."""
    mapping: Any = SimulatedMapping(Board.buffer_bytes(shape))
    bells: list[Any] = [SimulatedBell() for _ in range(shape.workers + 1)]
    lock: Any = contextlib.nullcontext()
    commons = object.__new__(Commons)
    config = CommonsConfig(shape, rules, _BUFFER_BYTES)
    commons._open(config, mapping, mapping, lock, bells[-1], bells[:-1])
    commons.board.head[Head.NUM_SEATS] = num_seats
    return commons
