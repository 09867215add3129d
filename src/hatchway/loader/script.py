"""The order of a pass, recorded to be delivered once more. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hatchway.loader.board import Board, Head, Status
from hatchway.loader.errors import StateError


def encoded(batches: Iterable[NDArray[np.int64]]) -> list[list[int]]:
    """Batches of ranks as runs: ``[3, 5, 8, 9]`` stands for the ranks 3, 4 and 8."""
    found = []
    for ranks in batches:
        breaks = np.flatnonzero(np.diff(ranks) != 1) + 1
        runs = np.empty((len(breaks) + 1, 2), np.int64)
        runs[:, 0] = ranks[np.concatenate(([0], breaks))]
        runs[:, 1] = ranks[np.concatenate((breaks - 1, [-1]))] + 1
        found.append(runs.ravel().tolist())
    return found


def decoded(
    batches: Any, most_in_a_batch: int | None = None, most_missing: int | None = None
) -> list[NDArray[np.int64]]:
    """The inverse of :func:`encoded`.

    Args:
        batches: What that returned.
        most_in_a_batch: How many ranks a batch may hold; None for any number.
        most_missing: How many ranks before the last may be in no batch.

    Raises:
        StateError: If that is not what ``batches`` is.
    """
    try:
        runs = [np.array(one, np.int64).reshape(-1, 2) for one in batches]
        for one in runs:
            # Ascending, and so without an overflow: the last end is the greatest number.
            edges = one.ravel()
            if not len(edges) or edges[0] < 0 or not (edges[1:] - edges[:-1] >= 0).all():
                raise ValueError("a batch is empty, or not in the sampler's order")
            if not (one[:, 1] > one[:, 0]).all():
                raise ValueError("a batch holds an empty range")
            if most_in_a_batch is not None and int((one[:, 1] - one[:, 0]).sum()) > most_in_a_batch:
                raise ValueError(f"a batch holds more than {most_in_a_batch} positions")
        found = [np.concatenate([np.arange(begin, end) for begin, end in one]) for one in runs]
    except (TypeError, ValueError, OverflowError) as error:
        raise StateError(f"the recorded order is damaged: {error}") from error
    every = np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)
    if len(every) and (every[0] < 0 or not np.diff(every).all()):
        raise StateError("the recorded order is damaged: a position is negative, or comes twice")
    if most_missing is not None and len(every) and int(every[-1]) + 1 - len(every) > most_missing:
        raise StateError(f"the recorded order is damaged: it leaves out more than {most_missing}")
    return found


class Script:
    """Which batch each sample of a pass leaves in.

    Args:
        batches: The ranks of each batch, in the order in which they leave.
    """

    def __init__(self, batches: list[NDArray[np.int64]]) -> None:
        self.batches = batches
        num_ranks = max((int(one.max()) + 1 for one in batches), default=0)
        self._turns = np.full(num_ranks, -1, np.int32)
        for turn, ranks in enumerate(batches):
            self._turns[ranks] = turn
        # After how many samples of the sampler all of a batch, and of those before, are known.
        self._known = np.maximum.accumulate([int(one.max()) + 1 for one in batches] or [0])

    @property
    def num_turns(self) -> int:
        """How many batches leave."""
        return len(self.batches)

    @property
    def most_ahead(self) -> int:
        """How many samples, at most, must be planned before a batch can leave."""
        left = np.cumsum([0, *map(len, self.batches)])[:-1]
        return int((self._known[: len(left)] - left).max(initial=0))

    def turns_of(self, rank: int, count: int) -> NDArray[np.int32]:
        """The turn of each of the ranks [rank, rank + count); -1 for one that was not recorded."""
        found = np.full(count, -1, np.int32)
        known = self._turns[rank : rank + count]
        found[: len(known)] = known
        return found

    def num_known(self, num_samples: int) -> int:
        """How many turns are known as a whole when the sampler has yielded so many samples."""
        return int(np.searchsorted(self._known, num_samples, side="right")) if self.batches else 0


def missing_position(position: int, num_samples: int) -> StateError:
    """The error that a recorded position is not in the sampler's order."""
    return StateError(
        f"the recorded order holds position {position}, the sampler yields {num_samples} only; "
        "replay it with the dataset and the sampler that it was recorded with"
    )


def next_scripted(board: Board) -> NDArray[np.int64] | None:
    """The finished samples of the batch whose turn it is; None if it must be waited for."""
    head = board.head
    begin, end = head[Head.TAIL], head[Head.END]
    turns = board.run(board.turn, begin, end)
    while head[Head.SCRIPT_TURN] < head[Head.SCRIPT_KNOWN]:
        members = np.flatnonzero(turns == head[Head.SCRIPT_TURN]) + begin
        status = board.run_at(board.status, members)
        left = members[status < Status.TAKEN]
        if len(left):
            finished = np.isin(status[status < Status.TAKEN], (Status.DONE, Status.FAILED))
            return left if finished.all() else None
        head[Head.SCRIPT_TURN] += 1
    return None


def is_awaited(board: Board) -> bool:
    """Whether the batch whose turn it is waits for a sample that nobody has begun."""
    head = board.head
    if head[Head.SCRIPT_TURN] >= head[Head.SCRIPT_END]:
        return False
    begin, end = head[Head.TAIL], head[Head.END]
    mine = board.run(board.turn, begin, end) == head[Head.SCRIPT_TURN]
    return bool((mine & (board.run(board.status, begin, end) == Status.PLANNED)).any())
