"""Which of several boards a worker serves next: the nearest to starving. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hatchway.loader.board import Board, Head, Outgoing, Running, Status, Waiting

_WAITS_FOR_BATCH = (Waiting.BATCH, Waiting.BATCH_OR_SLOW)


class Need(NamedTuple):
    """How much a board needs another worker; the smallest needs it most.

    Attributes:
        is_done: Whether there seems to be nothing to do on it.
        is_early: Whether what is left to do is of the next epoch.
        has_batch: Whether its training loop is busy, and does not wait for a batch.
        lead_batches: How many whole batches are made, or in the making, ahead of the loop.
    """

    is_done: bool
    is_early: bool
    has_batch: bool
    lead_batches: int


def need_of(board: Board, batch_size: int, *, as_guest: bool) -> Need:
    """How much a board needs another worker, read without its lock: a hint.

    Args:
        board: The board.
        batch_size: Samples in a batch of it.
        as_guest: Whether the worker is another rank's: it does not wait for memory.
    """
    head = board.head
    cursor, tail = head[Head.CURSOR], head[Head.TAIL]
    is_late = head[Head.NUM_RETRY] > 0 or Outgoing.COMPOSED in bytes(board.out_status.cells)
    has_work = is_late or cursor < head[Head.PUBLISHED]
    if has_work and as_guest:
        has_work = Running.WAITING_FOR_MEMORY not in bytes(board.running.cells)
    lead = max(0, cursor - tail)
    if lead:
        lead -= board.count(board.status, tail, cursor, Status.CONSUMED)
    return Need(
        is_done=not has_work,
        is_early=bool(cursor >= head[Head.END]) and not is_late,
        has_batch=head[Head.WAITING] not in _WAITS_FOR_BATCH,
        lead_batches=int(lead // batch_size),
    )


def nearest_to_starving(needs: Sequence[Need], at: int) -> list[int]:
    """The boards' numbers, the one to serve next first.

    A worker's own rank (number 0) comes first if it waits for a batch: no rank waits longer
    than without the others, but for what a worker is at. Where two need it alike it stays
    where it is, or goes to its own: to go elsewhere costs a visit.

    Args:
        needs: What each board needs.
        at: The board that the worker is at, or -1.
    """

    def key(number: int) -> tuple[bool, bool, bool, bool, int, bool, int]:
        need = needs[number]
        is_others = not need.has_batch and number > 0
        return (*need[:3], is_others, need.lead_batches, number != at, number)

    return sorted(range(len(needs)), key=key)
