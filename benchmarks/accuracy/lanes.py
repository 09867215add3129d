"""Which sample a worker of a fast-first loader makes next; no threads and no clocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A position to make; the first attempt is given up when it takes long."""

    position: int
    is_first_attempt: bool


class Lanes:
    """Positions that nobody tried yet, and those that were set aside for taking long.

    Front workers try each position once, in the sampler's order, and leave the slow ones
    to background workers; they help with these once there is nothing left to try.
    Nothing bounds how far a position falls behind.

    Attributes:
        goes_round: Whether front workers begin the order anew instead of helping.
    """

    def __init__(self, num_positions: int, *, goes_round: bool) -> None:
        if num_positions < 1:
            raise ValueError(f"num_positions is {num_positions}: it must be at least 1")
        self.goes_round = goes_round
        self._num_positions = num_positions
        self._untried: Iterator[int] = iter(range(num_positions))
        self._aside: deque[int] = deque()

    def take(self, *, in_background: bool) -> Task | None:
        """Give a worker its next task; None if there is none for it now."""
        if not in_background:
            position = next(self._untried, None)
            if position is None and self.goes_round:
                self._untried = iter(range(self._num_positions))
                position = next(self._untried)
            if position is not None:
                return Task(position, is_first_attempt=True)
        return Task(self._aside.popleft(), is_first_attempt=False) if self._aside else None

    def set_aside(self, position: int) -> None:
        """Note that the first attempt at ``position`` was given up."""
        self._aside.append(position)
