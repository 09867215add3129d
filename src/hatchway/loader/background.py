"""When another worker pays because slow samples hold nearly all, and when to look. Pure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hatchway.loader.board import Alive, Board, Head, Running

# Starting a process costs 10 to 20 ms by fork and more than a second otherwise: no
# sample that is shorter is worth one.
WORTH_A_FORK_S = 0.05
WORTH_A_SPAWN_S = 2.0
# Where the workers compute on every core already, one more only divides the cores
# anew; it is worth that when samples are so slow that the loop would starve.
_WORTH_SHARING_S = 1.0
# While the loop waits it looks at the workers this often at most: where a batch
# waits for a sample to become slow, and to see whether slow samples hold nearly all.
_SHORTEST_LOOK_S = 0.005
LOOK_S = 0.05


def look_after_s(cut_s: float, *, holds_back: bool) -> float:
    """After how long a waiting training loop looks at the workers.

    Args:
        cut_s: From how many seconds on a sample is slow.
        holds_back: Whether a batch waits for a running sample to become slow.
    """
    return max(_SHORTEST_LOOK_S if holds_back else LOOK_S, cut_s)


def too_many_slow(
    board: Board,
    *,
    has_work: bool,
    num_seats: int,
    num_workers: int,
    now_s: float,
    worth_a_start_s: float,
    num_computing: Callable[[], int],
    num_cores: float,
) -> bool:
    """Whether slow samples hold all workers but one, so that another should be started.

    Args:
        board: The loader's board.
        has_work: Whether some sample waits for a worker.
        num_seats: How many workers the fast lane has.
        num_workers: How many there are.
        now_s: The monotonic time, in seconds.
        worth_a_start_s: No sample shorter than that is worth a worker.
        num_computing: Called for how many workers run or wait for a core.
        num_cores: How many cores there are for them.
    """
    started = board.started.array.copy()  # workers write it meanwhile
    running = (board.running.array == Running.SAMPLE) & (board.alive.array != Alive.GONE)
    since = now_s - started[running & (started > 0)]  # between two samples it is 0
    slow_s = max(board.cut_s[0], worth_a_start_s)
    num_workers = max(num_seats, num_workers)
    if np.count_nonzero(since > slow_s) < max(1, num_workers - 1):
        return False
    if board.head[Head.EXHAUSTED] and not has_work:
        return False
    if num_computing() < num_cores:
        return True
    return bool(np.count_nonzero(since > _WORTH_SHARING_S) == num_workers)
