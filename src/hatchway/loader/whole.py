"""Batches that one worker made and collated whole. Pure: a function of the board."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hatchway.loader.board import Board, Kind


def without_whole(
    board: Board, over: NDArray[np.int64], begin: int
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Finished offsets that are not part of a batch collated by one worker.

    Args:
        board: The loader's board.
        over: Offsets of finished samples.
        begin: The position that they count from.

    Returns:
        The offsets, and the positions of the first such batch, if there is one.
    """
    is_whole = board.run_at(board.kind, over + begin) == Kind.COLLATED
    if not is_whole.any():
        return over, None
    first = int(over[np.argmax(is_whole)]) + begin
    home = board.home.cells[first & board.mask] & board.home_mask
    end = first + board.home_count.cells[home]
    return over[~is_whole], np.arange(first, end, dtype=np.int64)
