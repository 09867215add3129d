"""Which of several boards a worker serves next: the nearest to starving. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hatchway.loader.board import Board, Head, Outgoing, Running, Status, Waiting

_WAITS_FOR_BATCH = (Waiting.BATCH, Waiting.BATCH_OR_SLOW)
# With samples of microseconds every loop waits now and then, each at another time: a worker
# that followed would be on its way all the time, and would map every rank's buffer.
_RESERVE_BATCHES = 2
# With samples that take less, two ranks are slower with each other's workers than without: to
# come and go costs as much as a dozen of them.
LEAST_SAMPLE_S = 1e-4
_LATEST = 16
_HELD_UP_S = 0.005


class Need(NamedTuple):
    """How much a board needs another worker.

    Attributes:
        is_refused: Whether there is something to do, but not for this worker.
        is_done: Whether there seems to be nothing to do on it.
        is_early: Whether what is left to do is of the next epoch.
        has_batch: Whether its training loop is busy, and does not wait for a batch.
        lead_batches: How many whole batches are made, or in the making, ahead of the loop.
    """

    is_refused: bool
    is_done: bool
    is_early: bool
    has_batch: bool
    lead_batches: int


def need_of(board: Board, batch_size: int, now_s: float, *, as_guest: bool) -> Need:
    """How much a board needs another worker, read without its lock: a hint.

    Args:
        board: The board.
        batch_size: Samples in a batch of it.
        now_s: The monotonic time.
        as_guest: Whether the worker is another rank's: it does not wait for memory, and does
            not come for samples that are made faster than it comes.
    """
    head = board.head
    cursor, tail = head[Head.CURSOR], head[Head.TAIL]
    is_late = head[Head.NUM_RETRY] > 0 or Outgoing.COMPOSED in bytes(board.out_status.cells)
    has_work = is_late or cursor < head[Head.PUBLISHED]
    is_refused = False
    if has_work and as_guest:
        waits_for_memory = Running.WAITING_FOR_MEMORY in bytes(board.running.cells)
        is_refused = waits_for_memory or _is_cheap(board, cursor, now_s)
    lead = max(0, cursor - tail)
    if lead:
        lead -= board.count(board.status, tail, cursor, Status.CONSUMED)
    return Need(
        is_refused=is_refused,
        is_done=not has_work,
        is_early=bool(cursor >= head[Head.END]) and not is_late,
        has_batch=head[Head.WAITING] not in _WAITS_FOR_BATCH,
        lead_batches=int(lead // batch_size),
    )


def _is_cheap(board: Board, cursor: int, now_s: float) -> bool:
    """Whether the latest samples took next to nothing, and none holds up a worker now."""
    latest = board.seconds.array[np.arange(cursor - _LATEST, cursor) & board.mask]
    if not 0 < latest.max() < LEAST_SAMPLE_S:
        return False
    is_at_sample = (board.running.array == Running.SAMPLE) & (board.started.array > 0)
    return not (now_s - board.started.array[is_at_sample] > _HELD_UP_S).any()


def nearest_to_starving(needs: Sequence[Need], at: int) -> list[int]:
    """The boards' numbers, the one to serve next first.

    A worker's own rank (number 0) comes first if it waits for a batch: no rank waits longer
    than without the others, but for what a worker is at. Otherwise it keeps its workers until
    it is some batches better off than another: one that waits counts as one batch worse off.
    Where two need a worker alike it stays where it is: to go elsewhere costs a visit.

    Args:
        needs: What each board needs.
        at: The board that the worker is at, or -1.
    """

    def key(number: int) -> tuple[bool, bool, bool, bool, int, bool, int]:
        need, is_own = needs[number], number == 0
        lead = need.lead_batches - (_RESERVE_BATCHES if is_own else not need.has_batch)
        is_first = is_own and not need.has_batch
        return (*need[:3], not is_first, lead, number != at, number)

    return sorted(range(len(needs)), key=key)
