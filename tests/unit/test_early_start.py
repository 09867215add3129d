"""Samples that are predicted slow start before their turn, and only they."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hatchway.loader.board import Board, BoardShape, Head, Running, Status
from hatchway.loader.heap import Heap
from hatchway.loader.schedule import Claim, Schedule

NUM_WORKERS = 4
BATCH = 8


class Desk:
    """A board with planned samples, and workers that claim them."""

    def __init__(self, leads: dict[int, int], *, num: int = 32, num_workers: int = NUM_WORKERS):
        shape = BoardShape(
            positions=32, homes=8, outgoing=8, members=BATCH, workers=num_workers, blocks=8
        )
        self.board = Board(bytearray(Board.buffer_bytes(shape)), shape)
        heap = Heap(self.board, budget_bytes=1, address_bytes=1, give_back=lambda *_: True)
        self.schedule = Schedule(self.board, heap, BATCH)
        self.board.head[Head.NUM_PROCESSES] = num_workers
        self.board.alive.array[:] = 1
        for first in range(0, num, BATCH):
            self.schedule.publish(BATCH, np.arange(first, first + BATCH))
            lead = np.array([leads.get(first + i, 0) for i in range(BATCH)], np.int32)
            self.schedule.foresee(first, np.full(BATCH, 0.1, np.float32), lead)

    def claim(self, worker: int, want: int = 1) -> Claim | None:
        position = self.schedule.next_early(worker)
        if position >= 0:
            found: Claim | None = self.schedule.claim_early(worker, position)
        else:
            found = self.schedule.claim(worker, want)
        if found is not None:
            self.board.running.cells[worker] = Running.SAMPLE
            self.board.current.cells[worker] = found.first
        return found

    def finish(self, worker: int) -> None:
        position = self.board.current.cells[worker]
        self.board.status.cells[position] = Status.DONE
        self.board.running.cells[worker] = Running.NOTHING


def _first(claim: Any) -> int:
    assert claim is not None
    return int(claim.first)


def test_a_slow_sample_starts_when_its_lead_says() -> None:
    desk = Desk({10: 8})
    assert [_first(desk.claim(0)) for _ in range(4)] == [0, 1, 10, 2]


def test_the_one_with_the_latest_start_first() -> None:
    desk = Desk({20: 19, 9: 8, 15: 15})
    assert [_first(desk.claim(worker)) for worker in range(3)] == [15, 0, 9]


def test_a_chunk_ends_before_a_sample_that_was_started_early() -> None:
    desk = Desk({3: 3})
    assert desk.claim(0) == Claim(3, 1)
    assert desk.claim(1, want=8) == Claim(0, 3)
    assert desk.claim(2, want=8) == Claim(4, 4)


def test_each_sample_is_claimed_once_whatever_the_leads() -> None:
    desk = Desk({at: 40 for at in range(0, 32, 3)})
    claimed: list[int] = []
    for turn in range(32):
        claim = desk.claim(turn % NUM_WORKERS, want=3)
        if claim is None:
            break
        claimed += range(claim.first, claim.first + claim.count)
        desk.board.running.array[:] = Running.NOTHING
    assert sorted(claimed) == list(range(32))
    assert not desk.schedule.has_work()


def test_the_last_worker_stays_free_until_enough_is_finished() -> None:
    desk = Desk({at: 40 for at in range(16, 28)})
    assert [_first(desk.claim(worker)) for worker in range(4)] == [16, 17, 18, 0]
    desk.finish(3)
    for turn in range(1, 10):
        assert _first(desk.claim(3)) == turn  # a lead of 40 on 4 workers needs 10 finished
        desk.finish(3)
    assert _first(desk.claim(3)) == 19


def test_with_all_workers_at_slow_samples_nothing_more_starts_early() -> None:
    desk = Desk({at: 20 for at in range(1, 12)}, num_workers=2)
    assert _first(desk.claim(0)) == 1
    desk.board.status.array[16:26] = Status.DONE
    assert _first(desk.claim(1)) == 2
    desk.board.head[Head.NUM_PROCESSES] = 1  # one of them was started in the background
    assert desk.schedule.next_early(0) == -1


@pytest.mark.parametrize("before_cursor", [False, True])
def test_a_dead_worker_leaves_its_early_sample_to_the_others(before_cursor: bool) -> None:
    desk = Desk({12: 12})
    assert _first(desk.claim(0)) == 12
    if before_cursor:
        for _ in range(13):
            desk.claim(1)
        assert desk.board.head[Head.CURSOR] > 12
    desk.schedule.reclaim(0)
    assert _first(desk.claim(2)) == 12


def test_what_is_given_up_keeps_its_lead() -> None:
    desk = Desk({12: 12})
    claim = desk.claim(0)
    assert claim == Claim(12, 1)
    desk.board.running.array[:] = Running.NOTHING
    desk.schedule.give_up(12, 1)
    assert _first(desk.claim(1)) == 12


def test_an_abandoned_epoch_starts_nothing_early() -> None:
    desk = Desk({12: 12})
    desk.schedule.abandon()
    assert desk.claim(0) is None
    assert desk.board.head[Head.NUM_EARLY] == 0
