"""The native twins of the usual turns on the board; see native/loader/turns.hpp.

Each does what its Python twin does, in the common case, and says so where another
case is at hand. Whoever changes one changes the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hatchway.loader import native
from hatchway.loader.board import Board

if TYPE_CHECKING:
    from hatchway.loader._native import BoardKernel
    from hatchway.loader.rules import DeliveryRules


class Composed:
    """What came of making batches."""

    ALL: Final = 0
    HELD_BACK: Final = 1  # one waits for a running sample that is not slow
    UNCOMMON: Final = 2


class Consumed:
    """What came of forgetting a home batch."""

    ALL: Final = 0
    BUT_HOMES: Final = 1  # the tail of home batches is to be moved on
    UNCOMMON: Final = 2


def board_kernel(board: Board, rules: DeliveryRules) -> BoardKernel | None:
    """The kernel of a board; None without native code."""
    if native.MODULE is None:
        return None
    kernel: BoardKernel = native.MODULE.BoardKernel(
        board.columns(),
        fixed=rules.fixed,
        in_order=rules.in_order,
        rows_are_batch=rules.rows_are_batch,
        batch_size=rules.batch_size,
        depth=rules.depth,
        max_displacement=-1 if rules.max_displacement is None else rules.max_displacement,
    )
    return kernel
