"""Which unfinished samples a batch waits for. Pure: functions of board and time.

Twins: in compose_free, in native/loader/turns.hpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hatchway.loader.board import Board, Status
from hatchway.loader.cost import RARE_PATIENCE_S

_ENOUGH = 4
# Of samples that take less than this, none in the first batch is displaced because another
# worker was started a little later.
_CHEAP_S = 0.0005


def waits_for_fast(board: Board, status: NDArray[Any], begin: int, end: int, now_s: float) -> bool:
    """Whether a sample before ``end`` is running and not slow yet.

    A batch that can be made is not made without such a sample: it is done within
    moments, and displacing it would displace it and all that follow for nothing,
    and cost a copy of the batch. A slow sample is not waited for; one that was
    predicted slow is for as long as it is about to be done.

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
        seconds = board.run_at(board.seconds, finished + begin)
        median_s = float(np.median(seconds)) if len(seconds) >= _ENOUGH else 0.0
        patience_s = RARE_PATIENCE_S if median_s < _CHEAP_S else 2 * median_s
    age_s = now_s - board.started.array[board.run_at(board.worker, claimed + begin)]
    cost_s = board.run_at(board.cost, claimed + begin).astype(np.float64)
    is_slow = board.run_at(board.lead, claimed + begin) > 0
    return bool((np.where(is_slow, np.abs(cost_s - age_s), age_s) <= patience_s).any())


def exceeds_bound(status: NDArray[Any], count: int, bound: int | None) -> bool:
    """Whether a batch of ``count`` samples would displace an unfinished one too far.

    Args:
        status: Of the positions from the first that is not consumed on.
        count: How many finished samples would leave, none of them unfinished now.
        bound: How many positions after its turn a sample may leave; None for any.
    """
    if bound is None:
        return False
    unfinished = (status == Status.PLANNED) | (status == Status.CLAIMED)
    if not unfinished.any():
        return False
    turn = int(np.count_nonzero(status >= Status.TAKEN)) + count
    return turn - int(np.argmax(unfinished)) > bound
