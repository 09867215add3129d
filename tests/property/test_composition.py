"""Which finished samples make the next batch, against models of a few lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatchway.loader.board import Board, BoardShape, Head, Kind, Outgoing, Status, power_of_two
from hatchway.loader.delivery import Delivery
from hatchway.loader.heap import Heap
from hatchway.loader.rules import DeliveryRules
from hatchway.loader.schedule import Schedule

DEPTH = 2


@dataclass
class Table:
    """A board with its schedule and delivery, and nobody else."""

    board: Board
    heap: Heap
    schedule: Schedule
    delivery: Delivery

    def finish(self, position: int, *, failed: bool = False) -> None:
        slot = position & self.board.mask
        block = self.heap.allocate(64, 0)
        self.board.block.cells[slot] = block
        self.heap.adopt(block)
        self.board.kind.cells[slot] = Kind.ERROR if failed else Kind.BLOB
        self.board.status.cells[slot] = Status.FAILED if failed else Status.DONE

    def collate_all(self) -> None:
        while (slot := self.delivery.claim_collate(0)) >= 0:
            self.delivery.collated(slot, Kind.BLOB, self.heap.allocate(64, 0), 64)

    def take_all(self) -> list[list[int]]:
        taken = []
        while (batch := self.delivery.take()) is not None:
            taken.append(batch.positions.tolist())
            self.heap.release(batch.block)
        return taken


def table(
    num_samples: int,
    batch_size: int,
    *,
    fixed: bool,
    in_order: bool = True,
    drop_last: bool = False,
) -> Table:
    """A board on which an epoch is planned to the end."""
    ring = power_of_two(num_samples)
    shape = BoardShape(
        positions=ring,
        homes=power_of_two(num_samples + 2),
        outgoing=power_of_two(num_samples + 2) if fixed else 8,
        members=1 if fixed else batch_size,
        workers=1,
        blocks=4 * ring + 8,
    )
    board = Board(bytearray(Board.buffer_bytes(shape)), shape)
    budget = 1 << 20
    heap = Heap(board, budget_bytes=budget, address_bytes=budget, give_back=lambda *_: True)
    rules = DeliveryRules(
        fixed=fixed,
        in_order=in_order,
        batch_size=batch_size,
        drop_last=drop_last,
        depth=DEPTH,
        rows_are_batch=False,
    )
    found = Table(board, heap, Schedule(board, heap), Delivery(board, heap, rules))
    for first in range(0, num_samples, batch_size):
        keys = np.arange(first, min(num_samples, first + batch_size), dtype=np.int64)
        if len(keys) == batch_size or not (fixed and drop_last):
            found.schedule.publish(len(keys), keys)
    board.head[Head.EXHAUSTED] = 1
    while found.schedule.claim(0, 1 << 16) is not None:
        pass
    return found


@given(data=st.data(), num_samples=st.integers(1, 24), batch_size=st.integers(1, 8))
def test_of_the_finished_samples_the_earliest_leave_first(
    data: st.DataObject, num_samples: int, batch_size: int
) -> None:
    arrivals = data.draw(st.permutations(range(num_samples)))
    failing = data.draw(st.frozensets(st.integers(0, num_samples - 1), max_size=3))
    at_once = data.draw(st.integers(1, num_samples))
    drop_last = data.draw(st.booleans())
    one = table(num_samples, batch_size, fixed=False, drop_last=drop_last)
    taken: list[list[int]] = []
    waiting: list[int] = []  # the model: finished, and in no batch yet
    expected: list[list[int]] = []

    def expect() -> None:
        """As many batches as may be made ahead, of the earliest that are finished."""
        while len(expected) - len(taken) < DEPTH and waiting:
            waiting.sort()
            is_last = len(over) == num_samples
            if len(waiting) < batch_size and not is_last:
                return
            chosen = waiting[:batch_size]
            failed = [position for position in chosen if position in failing]
            if failed:
                chosen = failed  # as one error; what is whole of them stays
            elif len(chosen) < batch_size and drop_last:
                waiting.clear()
                return
            expected.append(chosen)
            del_from(waiting, chosen)

    over: list[int] = []
    for begin in range(0, num_samples, at_once):
        for position in arrivals[begin : begin + at_once]:
            one.finish(position, failed=position in failing)
            over.append(position)
            waiting.append(position)
        one.delivery.compose()
        expect()
        assert one.board.head[Head.OUT_HEAD] - one.board.head[Head.OUT_TAIL] <= DEPTH
        while len(taken) < len(expected):
            one.collate_all()
            batch = one.delivery.take()
            assert batch is not None
            one.heap.release(batch.block)
            taken.append(batch.positions.tolist())
            one.delivery.compose()
            expect()
        assert sorted(taken) == sorted(expected)
    assert one.delivery.finished()
    assert one.heap.used_bytes() == 0


@pytest.mark.parametrize(("age_s", "leaves"), [(0.0, False), (0.19, False), (0.21, True)])
def test_a_batch_that_a_worker_made_whole_waits_for_a_sample_before_it_that_is_not_slow(
    age_s: float, leaves: bool
) -> None:
    one = table(8, 4, fixed=False)
    board = one.board
    board.cut_s[1] = 0.2
    board.started.cells[0] = 5.0
    for position in range(4, 8):
        one.finish(position)
        board.kind.cells[position] = Kind.COLLATED
    holds_back = one.delivery.compose(now_s=5.0 + age_s)
    assert (holds_back, one.delivery.is_ready()) == (not leaves, leaves)


def del_from(waiting: list[int], chosen: list[int]) -> None:
    for position in chosen:
        waiting.remove(position)


@given(data=st.data(), num_samples=st.integers(1, 24), batch_size=st.integers(1, 8))
def test_fixed_batches_leave_when_they_are_whole(
    data: st.DataObject, num_samples: int, batch_size: int
) -> None:
    arrivals = data.draw(st.permutations(range(num_samples)))
    in_order, drop_last = data.draw(st.booleans()), data.draw(st.booleans())
    one = table(num_samples, batch_size, fixed=True, in_order=in_order, drop_last=drop_last)
    homes = [
        list(range(first, min(num_samples, first + batch_size)))
        for first in range(0, num_samples, batch_size)
    ]
    if drop_last:
        homes = [home for home in homes if len(home) == batch_size]
    published = {position for home in homes for position in home}
    over: set[int] = set()
    taken: list[list[int]] = []
    for position in arrivals:
        if position not in published:
            continue
        one.finish(position)
        over.add(position)
        one.delivery.compose(position)
        one.collate_all()
        taken += one.take_all()
        whole = [home for home in homes if over.issuperset(home)]
        if in_order:
            count = next((n for n, home in enumerate(homes) if home not in whole), len(homes))
            assert taken == homes[:count]
        else:
            assert sorted(taken) == whole
    assert one.delivery.finished()
    assert one.heap.used_bytes() == 0


@given(failing=st.frozensets(st.integers(0, 11), min_size=1), arrivals=st.permutations(range(12)))
def test_a_failed_fixed_batch_leaves_as_the_failure_of_its_first_failed_sample(
    failing: frozenset[int], arrivals: list[int]
) -> None:
    one = table(12, 4, fixed=True)
    for position in arrivals:
        one.finish(position, failed=position in failing)
        one.delivery.compose(position)
    kinds = []
    while True:
        one.collate_all()
        expected = one.board.out_block.cells[one.board.head[Head.OUT_TAIL] & one.board.out_mask]
        batch = one.delivery.take()
        if batch is None:
            break
        first_failed = [position for position in batch.positions.tolist() if position in failing]
        assert (batch.kind == Kind.ERROR) == bool(first_failed)
        assert batch.block == expected
        assert one.board.block_state.cells[batch.block] != Outgoing.EMPTY
        kinds.append(batch.kind)
        one.heap.release(batch.block)
    assert len(kinds) == 3
    assert one.heap.used_bytes() == 0


@given(
    wants=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    num_samples=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    given_up=st.frozensets(st.integers(0, 39)),
)
def test_claims_are_of_one_home_batch_earliest_first_and_never_overlap(
    wants: list[int], num_samples: int, batch_size: int, given_up: frozenset[int]
) -> None:
    one = table(num_samples, batch_size, fixed=True)
    for position in range(num_samples):
        one.schedule.give_up(position, 1)
    assert one.schedule.has_work()
    claimed: list[int] = []
    back: list[int] = []
    for want in wants:
        claim = one.schedule.claim(0, want)
        if claim is None:
            break
        run = list(range(claim.first, claim.first + claim.count))
        assert 1 <= claim.count <= want
        assert len({position // batch_size for position in run}) == 1
        assert not set(run) & (set(claimed) - set(back))
        waiting = (set(range(num_samples)) - set(claimed)) | set(back)
        assert claim.first == min(waiting)
        claimed += run
        back = [position for position in back if position not in run]
        for position in run:
            if position in given_up and claimed.count(position) == 1:
                one.schedule.give_up(position, 1)
                back.append(position)
