"""The native turns on the board: what is common, and what they leave to their twins.

That they do what their twins do is checked in every epoch of tests/property.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hatchway.loader import board as board_module
from hatchway.loader import kernel as kernel_module
from hatchway.loader import native
from hatchway.loader.board import Board, BoardShape, Head, Kind, Outgoing, Status, Waiting
from hatchway.loader.kernel import Composed, Consumed, board_kernel
from hatchway.loader.rules import DeliveryRules

pytestmark = pytest.mark.skipif(native.MODULE is None, reason="there is no native code here")
BATCH = 3
VISIT_S = 0.002
NO_LIMIT = 1 << 40


def _new(*, fixed: bool = False) -> SimpleNamespace:
    shape = BoardShape(positions=16, homes=8, outgoing=8, members=BATCH, workers=3, blocks=8)
    rules = DeliveryRules(
        fixed=fixed, in_order=fixed, batch_size=BATCH, drop_last=False, depth=2, rows_are_batch=True
    )
    board = Board(bytearray(Board.buffer_bytes(shape)), shape)
    board.head[Head.NUM_SEATS] = board.head[Head.NUM_PROCESSES] = 2
    board.cut_s[1] = 0.5
    return SimpleNamespace(board=board, kernel=board_kernel(board, rules))


def _claim(
    at: Any, *, last: int = -1, is_whole: bool = True, want: int = 2, most_bytes: int = NO_LIMIT
) -> int:
    return int(at.kernel.next_work(0, last, is_whole, want, 10.0, VISIT_S, most_bytes))


def _finish(at: Any, *positions: int) -> None:
    for position in positions:
        at.board.kind.cells[position] = Kind.BLOB
        at.board.status.cells[position] = Status.DONE


def test_it_calls_things_by_the_numbers_of_the_board() -> None:
    for name, value in native.MODULE.BoardKernel.constants().items():
        group, member = name.split(".")
        module = kernel_module if group in ("Composed", "Consumed") else board_module
        assert getattr(getattr(module, group), member) == value, name


@pytest.mark.parametrize("keys", [["a", 1], [True, 2], [1, 2**63], [1.0]])
def test_keys_that_are_no_plain_ints_are_left_alone(keys: list[Any]) -> None:
    at = _new()
    before = bytes(at.board.key.array)
    assert not at.kernel.plan(keys)
    assert at.board.head[Head.PUBLISHED] == at.board.head[Head.HOMES] == 0
    assert bytes(at.board.key.array) == before


def test_samples_are_claimed_in_order_and_within_a_home_batch() -> None:
    at = _new()
    assert _claim(at) == 0, "nothing is planned"
    assert at.kernel.plan([7, 8, -9])
    assert at.kernel.plan([1, 2, 3])
    assert [_claim(at) for _ in range(4)] == [2, 1, 2, 1]
    assert _claim(at) == 0
    assert at.board.key.array[:6].tolist() == [7, 8, -9, 1, 2, 3]
    assert at.board.current.cells[0] == 5


def _a_sample_waits_behind_a_slow_one(at: Any) -> None:
    at.board.span.cells[1] = 1 << 32 | 2
    at.board.started.cells[1] = 10.0 - 2 * VISIT_S


def _a_sample_is_planned_again(at: Any) -> None:
    at.board.head[Head.NUM_RETRY] = 1


def _there_are_more_workers_than_seats(at: Any) -> None:
    at.board.head[Head.NUM_PROCESSES] = 3


def _the_rows_have_no_block(at: Any) -> None:
    at.board.head[Head.ROWS] = 1


def _the_loop_wants_the_workers_to_stop(at: Any) -> None:
    at.board.head[Head.STOP] = 1


def _the_epoch_is_given_up(at: Any) -> None:
    at.board.head[Head.WAITING] = Waiting.EPOCH_END


def _a_batch_waits_for_a_worker(at: Any) -> None:
    at.board.out_status.cells[5] = Outgoing.COMPOSED


def _the_loop_sleeps_and_a_batch_is_there(at: Any) -> None:
    at.board.head[Head.WAITING] = Waiting.BATCH_OR_SLOW
    at.board.out_status.cells[5] = Outgoing.READY


@pytest.mark.parametrize(
    "what",
    [
        _the_loop_wants_the_workers_to_stop,
        _the_epoch_is_given_up,
        _a_batch_waits_for_a_worker,
        _the_loop_sleeps_and_a_batch_is_there,
        _a_sample_waits_behind_a_slow_one,
        _a_sample_is_planned_again,
        _there_are_more_workers_than_seats,
        _the_rows_have_no_block,
    ],
)
def test_a_claim_is_left_to_its_twin_where(what: Any) -> None:
    at = _new()
    at.kernel.plan([1, 2, 3])
    what(at)
    before = bytes(at.board.status.array)
    assert _claim(at) == 0
    assert bytes(at.board.status.array) == before
    assert at.board.head[Head.CURSOR] == 0


def test_a_claim_is_left_to_its_twin_where_memory_is_short() -> None:
    at = _new()
    at.kernel.plan([1, 2, 3])
    at.board.head[Head.ROW_BYTES], at.board.head[Head.SAMPLE_BYTES] = 100, 10
    at.board.head[Head.RESIDENT] = 1000
    needed = 1000 + 3 * 100 + (2 + 2) * 10
    assert _claim(at, most_bytes=needed) == 0
    assert _claim(at, most_bytes=needed + 1) == 2


def test_a_chunk_of_which_another_took_a_part_is_left_to_the_twin() -> None:
    at = _new()
    at.kernel.plan([1, 2, 3])
    assert _claim(at) == 2
    assert _claim(at, is_whole=False) == 0
    assert at.board.span.cells[0] == 2, "what is lost of it is found by it"
    assert _claim(at) == 1


def test_handing_in_makes_a_batch_and_goes_on_with_the_next_sample() -> None:
    at = _new()
    for keys in [1, 2, 3], [4, 5, 6]:
        at.kernel.plan(keys)
    assert _claim(at, want=3) == 3
    for position in range(3):
        at.board.kind.cells[position] = Kind.ROW
        at.board.status.cells[position] = Status.DONE
    at.board.home_block.cells[0] = 4
    assert _claim(at, last=2) == 2, "a batch that is ready as it lies"
    assert at.board.out_status.cells[0] == Outgoing.READY
    assert at.board.head[Head.OUT_HEAD] == 1


@pytest.mark.parametrize(
    ("waiting", "claimed"), [(Waiting.BATCH, 0), (Waiting.BATCH_OR_SLOW, 1), (Waiting.NOTHING, 1)]
)
def test_a_loop_that_does_not_know_yet_is_told_what_holds_its_batch_back(
    waiting: int, claimed: int
) -> None:
    at = _new()
    for keys in [1, 2, 3], [4, 5, 6]:
        at.kernel.plan(keys)
    at.board.head[Head.CURSOR] = 5
    at.board.status.cells[0] = Status.CLAIMED
    at.board.worker.cells[0] = 1
    at.board.started.cells[1] = 9.9
    _finish(at, 1, 2, 3, 4)
    at.board.head[Head.WAITING] = waiting
    assert _claim(at, last=4) == claimed


@pytest.mark.parametrize(
    ("running_s", "composed"), [(0.4, Composed.HELD_BACK), (0.6, Composed.ALL)]
)
def test_a_batch_waits_for_a_running_sample_that_is_not_slow(
    running_s: float, composed: int
) -> None:
    at = _new()
    at.kernel.plan([1, 2, 3])
    at.kernel.plan([4, 5, 6])
    _claim(at, want=1)
    at.board.started.cells[0] = 10.0 - running_s
    _finish(at, 1, 2, 3)
    assert at.kernel.compose(-1, 10.0) == composed
    assert at.board.head[Head.OUT_HEAD] == (composed == Composed.ALL)


def test_a_batch_does_not_wait_for_what_comes_after_it() -> None:
    at = _new()
    at.kernel.plan([1, 2, 3])
    at.kernel.plan([4, 5, 6])
    _finish(at, 0, 1, 2)
    at.board.status.cells[4] = Status.CLAIMED
    at.board.started.cells[0] = 10.0
    assert at.kernel.compose(-1, 10.0) == Composed.ALL
    assert at.board.members[0].tolist() == [0, 1, 2]
    assert at.board.status.array[:5].tolist() == [Status.TAKEN] * 3 + [Status.PLANNED, 2]


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("what", ["failed", "collated"])
def test_failed_and_collated_samples_are_left_to_the_twin(what: str, fixed: bool) -> None:
    at = _new(fixed=fixed)
    at.kernel.plan([1, 2, 3])
    _finish(at, 0, 1, 2)
    if what == "failed":
        at.board.status.cells[1] = Status.FAILED
    else:
        at.board.kind.cells[1] = Kind.COLLATED
    assert at.kernel.compose(1, 10.0) == Composed.UNCOMMON
    assert at.board.head[Head.OUT_HEAD] == 0
    assert not at.board.home_emitted.cells[0]


def test_a_home_batch_with_a_block_is_left_to_the_twin() -> None:
    at = _new(fixed=True)
    at.kernel.plan([1, 2, 3])
    at.board.home_block.cells[0] = 4
    assert at.kernel.consume(0, 3) == Consumed.UNCOMMON
    at.board.home_block.cells[0] = -1
    assert at.kernel.consume(0, 2) == Consumed.UNCOMMON, "a part of it"
    assert at.kernel.consume(0, 3) == Consumed.ALL
    assert at.board.head[Head.TAIL] == 3
    assert at.board.head[Head.HOME_TAIL] == 1


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"kind": bytearray(8)}, "do not fit together"),
        ({"out_status": bytearray()}, "a power of two"),
        ({"span": bytearray(15)[7:]}, "do not fit together"),
    ],
    ids=str,
)
def test_columns_that_do_not_fit_together_are_refused(column: Any, said: str) -> None:
    columns = {**_new().board.columns(), **column}
    with pytest.raises(ValueError, match=said):
        native.MODULE.BoardKernel(
            columns,
            fixed=True,
            in_order=True,
            rows_are_batch=True,
            batch_size=1,
            depth=2,
            max_displacement=-1,
        )
