"""Which board a worker serves next."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hatchway.loader.board import Board, BoardShape, Head, Outgoing, Running, Status, Waiting
from hatchway.loader.starving import Need, nearest_to_starving, need_of

needs = st.builds(
    Need, st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 5)
)


def need(*, waits: bool = False, lead: int = 0, done: bool = False, early: bool = False) -> Need:
    return Need(
        is_refused=False, is_done=done, is_early=early, has_batch=not waits, lead_batches=lead
    )


def first(*several: Need, at: int = -1) -> int:
    return nearest_to_starving(several, at)[0]


def test_among_other_ranks_the_least_lead_comes_first() -> None:
    assert first(need(lead=9), need(lead=3), need(lead=1), need(lead=2)) == 2


def test_a_loop_that_sleeps_for_a_batch_counts_as_one_batch_worse_off() -> None:
    assert first(need(lead=9), need(lead=2), need(waits=True, lead=2)) == 2
    assert first(need(lead=9), need(lead=2), need(waits=True, lead=3), at=1) == 1
    assert first(need(lead=9), need(lead=1), need(waits=True, lead=3)) == 1


def test_the_own_rank_keeps_its_workers_until_it_is_better_off() -> None:
    waits = need(waits=True)
    assert [first(need(lead=lead), waits) for lead in (0, 1, 2, 3)] == [0, 0, 1, 1]
    assert [first(need(lead=lead), need(lead=1)) for lead in (0, 2, 3, 4)] == [0, 0, 0, 1]


def test_the_own_rank_comes_first_where_it_waits_whatever_the_others_need() -> None:
    assert first(need(waits=True, lead=4), need(waits=True, lead=0), at=1) == 0


def test_where_there_is_nothing_to_do_comes_last() -> None:
    assert first(need(waits=True, done=True), need(lead=5)) == 1


def test_the_next_epoch_comes_after_what_is_left_of_this_one() -> None:
    assert first(need(early=True, lead=0), need(lead=4)) == 1


def test_where_two_need_it_alike_a_worker_stays_or_goes_home() -> None:
    alike = [need(lead=3), need(lead=1), need(lead=1)]
    assert first(*alike, at=2) == 2
    assert first(*alike) == 0


@given(several=st.lists(needs, min_size=1, max_size=5), at=st.integers(-1, 4))
def test_every_board_comes_once(several: list[Need], at: int) -> None:
    assert sorted(nearest_to_starving(several, at)) == list(range(len(several)))


def board(**head: int) -> Board:
    shape = BoardShape(positions=16, homes=4, outgoing=4, members=4, workers=2, blocks=4)
    made = Board(bytearray(Board.buffer_bytes(shape)), shape)
    for name, value in {"END": 16, **head}.items():
        made.head[getattr(Head, name)] = value
    return made


def asked(one: Board, **how: Any) -> Need:
    return need_of(one, 2, 100.0, **{"as_guest": False, **how})


def test_the_lead_is_what_is_made_or_in_the_making_and_not_delivered() -> None:
    one = board(TAIL=2, CURSOR=11, PUBLISHED=14)
    one.assign(one.status, 2, 11, Status.DONE)
    assert asked(one) == need(lead=4)
    one.assign(one.status, 3, 8, Status.CONSUMED)  # out of their turn
    assert asked(one) == need(lead=2)


def test_who_waits_and_whether_there_is_work_is_seen() -> None:
    one = board(CURSOR=4, PUBLISHED=4)
    assert asked(one).is_done
    one.out_status.cells[1] = Outgoing.COMPOSED
    assert not asked(one).is_done
    one.head[Head.WAITING] = Waiting.BATCH_OR_SLOW
    assert not asked(one).has_batch
    one.head[Head.WAITING] = Waiting.EPOCH_END
    assert asked(one).has_batch


def test_a_guest_does_not_go_where_somebody_waits_for_memory() -> None:
    one = board(PUBLISHED=4)
    one.running.cells[0] = Running.WAITING_FOR_MEMORY
    assert not asked(one).is_refused
    assert asked(one, as_guest=True).is_refused


def test_samples_of_the_next_epoch_are_told_apart() -> None:
    one = board(CURSOR=4, END=4, PUBLISHED=8)
    assert asked(one).is_early
    one.head[Head.NUM_RETRY] = 1  # of this one
    assert not asked(one).is_early


def test_a_guest_does_not_come_for_samples_of_microseconds_unless_one_holds_a_worker_up() -> None:
    one = board(CURSOR=4, PUBLISHED=8)
    assert not asked(one, as_guest=True).is_refused  # nothing is known yet
    one.seconds.array[:4] = 1e-5
    assert asked(one, as_guest=True).is_refused
    assert not asked(one).is_refused
    one.running.cells[0], one.started.cells[0] = Running.SAMPLE, 99.9
    assert not asked(one, as_guest=True).is_refused
    one.running.cells[0], one.seconds.cells[3] = Running.NOTHING, 1e-3
    assert not asked(one, as_guest=True).is_refused
