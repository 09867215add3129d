"""What a delivered batch teaches: sample times, the cut, the loop's pace, costs. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hatchway.loader.board import Board
from hatchway.loader.cost import SampleTimes
from hatchway.loader.foresight import Foresight


def learn(
    board: Board,
    positions: NDArray[np.int64],
    times: SampleTimes,
    foresight: Foresight,
    now_s: float,
    *,
    has_plain_indices: bool,
) -> NDArray[np.float32]:
    """Learn from the samples of a batch that the training loop took just now.

    Args:
        board: The loader's board, which still holds them.
        positions: Theirs.
        times: Recent sample times.
        foresight: What samples cost, and how fast the loop takes them.
        now_s: The monotonic time, in seconds.
        has_plain_indices: Whether the board holds their dataset indices.

    Returns:
        Seconds that each of them took.
    """
    seconds: NDArray[np.float32] = board.run_at(board.seconds, positions)
    times.observe(seconds)
    tell_cut(board, times)
    foresight.delivered(len(positions), now_s)
    if has_plain_indices and foresight.model.wants(seconds):
        foresight.model.observe(board.run_at(board.key, positions), seconds)
    return seconds


def tell_cut(board: Board, times: SampleTimes) -> None:
    """Let the workers know what is slow now, and what is worth waiting for."""
    board.cut_s[0] = times.cut_s()
    board.cut_s[1] = times.patience_s()
