"""Which running samples are worth waiting for. Pure: a function of board and time.

Twin: in compose_free, in native/loader/turns.hpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hatchway.loader.board import Board, Status

_ENOUGH = 4


def waits_for_fast(board: Board, status: NDArray[Any], begin: int, end: int, now_s: float) -> bool:
    """Whether a sample before ``end`` is running and not slow yet.

    A batch that can be made is not made without such a sample: it is done within
    moments, and displacing it would displace it and all that follow for nothing,
    and cost a copy of the batch. A slow sample is not waited for.

    Args:
        board: The loader's board.
        status: A copy of the status of the positions from ``begin`` on.
        begin: The first of them.
        end: The first position that does not matter.
        now_s: The monotonic time, in seconds.
    """
    claimed = np.flatnonzero(status[: end - begin] == Status.CLAIMED)
    if not len(claimed):
        return False
    patience_s = board.cut_s[1]
    if not patience_s:
        # The first batch: no times are known but those of the samples at hand.
        finished = np.flatnonzero(status == Status.DONE)
        if len(finished) < _ENOUGH:
            return False
        patience_s = 2 * float(np.median(board.run_at(board.seconds, finished + begin)))
    workers = board.run_at(board.worker, claimed + begin)
    return bool((now_s - board.started.array[workers] <= patience_s).any())
