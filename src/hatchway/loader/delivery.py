"""Which finished samples make the next batch. Pure: a function of the board.

With *fixed* content (``order="strict"``, or a batch sampler of the user's) an
outgoing batch is a home batch, made when its last sample is done. Otherwise
(``order="ready"``) it is made of the finished samples that come first in the
sampler's order, and as late as possible: only ``depth`` batches are ever made
ahead of the training loop. After MinatoLoader (arXiv:2509.10712), section 4,
but for the order, which the paper gives up. The methods that compose have twins in
native/loader/turns.hpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hatchway.loader.board import Board, Head, Kind, Outgoing, Status
from hatchway.loader.fastlane import exceeds_bound, waits_for_fast
from hatchway.loader.heap import Heap
from hatchway.loader.kernel import Composed
from hatchway.loader.retirement import Retirement
from hatchway.loader.rules import DeliveryRules
from hatchway.loader.script import next_scripted
from hatchway.loader.whole import without_whole

if TYPE_CHECKING:
    from hatchway.loader._native import BoardKernel


class Delivered(NamedTuple):
    """A batch that the training loop took."""

    kind: int
    block: int
    nbytes: int
    positions: NDArray[np.int64]


class Delivery:
    """Makes outgoing batches from finished samples and hands them over, once each.

    Args:
        board: The loader's board.
        heap: Where samples and batches lie.
        rules: What batches are made of.
        kernel: The native twin of the most common turns, or None.
    """

    def __init__(
        self, board: Board, heap: Heap, rules: DeliveryRules, kernel: BoardKernel | None = None
    ) -> None:
        self._board = board
        self._heap = heap
        self._rules = rules
        self._kernel = kernel
        self._retirement = Retirement(board, heap, kernel)

    def compose(self, position: int = -1, now_s: float | None = None) -> bool:
        """Make every batch that can be made.

        Args:
            position: A sample that was just finished, or -1 to look everywhere.
            now_s: The monotonic time, to wait for running samples that are not
                slow; None waits for none.

        Returns:
            Whether a batch is held back for a running sample that is not slow yet.
        """
        if self._kernel is not None and now_s is not None:
            composed = self._kernel.compose(position, now_s)
            if composed != Composed.UNCOMMON:
                return composed == Composed.HELD_BACK
        if not self._rules.fixed:
            return self._compose_free(now_s)
        if position >= 0:
            self._compose_home(self._board.home.cells[position & self._board.mask])
        else:
            for home in range(self._board.head[Head.HOME_TAIL], self._board.head[Head.HOMES]):
                self._compose_home(home)
        return False

    def claim_collate(self, worker: int) -> int:
        """The slot of an outgoing batch that ``worker`` is to collate, or -1."""
        board = self._board
        number = self._first(Outgoing.COMPOSED)
        slot = number & board.out_mask if number >= 0 else -1
        if slot >= 0:
            board.out_status.cells[slot] = Outgoing.COLLATING
            board.out_worker.cells[slot] = worker
        return slot

    def has_to_collate(self) -> bool:
        """Whether an outgoing batch waits for a worker to collate it."""
        return self._first(Outgoing.COMPOSED) >= 0

    def members(self, slot: int) -> NDArray[np.int64]:
        """The positions of an outgoing batch, in the order of its rows."""
        board = self._board
        count = board.out_count.cells[slot]
        if board.out_fixed.cells[slot]:
            first = board.out_first.cells[slot]
            return np.arange(first, first + count, dtype=np.int64)
        positions: NDArray[np.int64] = board.members[slot, :count].copy()
        return positions

    def collated(self, slot: int, kind: int, block: int, nbytes: int) -> None:
        """An outgoing batch is ready in ``block``; its samples are no longer needed.

        Args:
            slot: The outgoing batch.
            kind: BLOB, ROW or ERROR.
            block: Where it lies.
            nbytes: How many bytes of the block it takes.
        """
        board = self._board
        board.out_block.cells[slot] = block
        board.out_nbytes.cells[slot] = nbytes
        board.out_kind.cells[slot] = kind
        board.out_status.cells[slot] = Outgoing.READY
        self._heap.adopt(block)
        self._retirement.consume(self.members(slot))

    def is_ready(self) -> bool:
        """Whether the training loop has something to take."""
        return self.next_ready() >= 0

    def take(self) -> Delivered | None:
        """Hand over the next batch, whose block the caller then owns."""
        board, head = self._board, self._board.head
        slot = self.next_ready()
        if slot < 0:
            return None
        positions = self.members(slot)
        kind = board.out_kind.cells[slot]
        block, nbytes = board.out_block.cells[slot], board.out_nbytes.cells[slot]
        first = int(positions[0]) & board.mask
        if kind == Kind.ROW and board.out_fixed.cells[slot]:
            home = board.home.cells[first] & board.home_mask
            if board.home_block.cells[home] == block:
                board.home_block.cells[home] = -1
        elif kind in (Kind.COLLATED, Kind.ERROR):
            slots = positions & board.mask
            board.block.array[slots[board.block.array[slots] == block]] = -1
        board.out_status.cells[slot] = Outgoing.TAKEN
        # A collated batch is consumed already; its slots may hold other positions.
        self._retirement.consume(positions[positions >= head[Head.TAIL]])
        tail = head[Head.OUT_TAIL]
        while tail < self._out_end() and (
            board.out_status.cells[tail & board.out_mask] == Outgoing.TAKEN
        ):
            board.out_status.cells[tail & board.out_mask] = Outgoing.EMPTY
            tail += 1
        head[Head.OUT_TAIL] = tail
        return Delivered(kind, block, nbytes, positions)

    def finished(self) -> bool:
        """Whether every position of the epoch has been delivered."""
        head = self._board.head
        if not head[Head.EXHAUSTED] or head[Head.TAIL] < head[Head.END]:
            return False
        return bool(head[Head.OUT_TAIL] == self._out_end() or not self._is_own(head[Head.OUT_TAIL]))

    def repair(self) -> None:
        """Undo a batch that its maker, dying, had begun to write down."""
        board, head = self._board, self._board.head
        begin, end = head[Head.TAIL], head[Head.PUBLISHED]
        live = (Outgoing.COMPOSED, Outgoing.COLLATING, Outgoing.READY)
        spoken_for: set[int] = set()
        for number in range(head[Head.OUT_TAIL], self._out_end()):
            if board.out_status.cells[number & board.out_mask] not in live:
                continue
            for position in self.members(number & board.out_mask).tolist():
                if position < begin:
                    continue  # collated, and so consumed
                slot = position & board.mask
                spoken_for.add(position)
                if board.status.cells[slot] < Status.TAKEN:
                    board.status.cells[slot] = Status.TAKEN
                board.home_emitted.cells[board.home.cells[slot] & board.home_mask] = 1
        taken = np.flatnonzero(board.run(board.status, begin, end) == Status.TAKEN)
        for position in (taken + begin).tolist():
            if position not in spoken_for:
                slot = position & board.mask
                failed = board.kind.cells[slot] == Kind.ERROR
                board.status.cells[slot] = Status.FAILED if failed else Status.DONE
                board.home_emitted.cells[board.home.cells[slot] & board.home_mask] = 0
        for home in range(head[Head.HOME_TAIL], head[Head.HOMES]):
            self._retirement.free_home(home)
        self._retirement.advance()

    def referenced_blocks(self) -> set[int]:
        """Every block that the board refers to."""
        board, head = self._board, self._board.head
        blocks = set(board.run(board.block, head[Head.TAIL], head[Head.PUBLISHED]).tolist())
        for home in range(head[Head.HOME_TAIL], head[Head.HOMES]):
            blocks.add(board.home_block.cells[home & board.home_mask])
            blocks.add(board.home_keys.cells[home & board.home_mask])
        for number in range(head[Head.OUT_TAIL], self._out_end()):
            if board.out_status.cells[number & board.out_mask] == Outgoing.READY:
                blocks.add(board.out_block.cells[number & board.out_mask])
        return blocks - {-1}

    def forget(self, positions: NDArray[np.int64]) -> None:
        """Drop samples that nobody will take, and the home batches that end with them."""
        self._retirement.consume(positions)
        self._retirement.advance()  # over what was given up before it began, too

    def _compose_home(self, home: int) -> None:
        board = self._board
        slot = home & board.home_mask
        if board.home_emitted.cells[slot]:
            return
        first, count = board.home_first.cells[slot], board.home_count.cells[slot]
        if board.count(board.status, first, first + count, Status.DONE, Status.FAILED) < count:
            return
        failed = np.flatnonzero(board.run(board.status, first, first + count) == Status.FAILED)
        out = home & board.out_mask
        board.out_fixed.cells[out] = 1
        board.out_first.cells[out] = first
        board.out_count.cells[out] = count
        if len(failed):
            self._as_is(out, first + int(failed[0]))
        else:
            self._describe(out, np.arange(first, first + count, dtype=np.int64))
        board.assign(board.status, first, first + count, Status.TAKEN)
        board.home_emitted.cells[slot] = 1

    def _compose_free(self, now_s: float | None) -> bool:
        board, head, rules = self._board, self._board.head, self._rules
        while head[Head.OUT_HEAD] - head[Head.OUT_TAIL] < rules.depth:
            if head[Head.SCRIPT_TURN] < head[Head.SCRIPT_END]:
                scripted = next_scripted(board)
                if scripted is not None:
                    failed = scripted[board.run_at(board.status, scripted) == Status.FAILED]
                    self._emit(failed if len(failed) else scripted, is_failure=len(failed) > 0)
                    continue
                if head[Head.SCRIPT_TURN] < head[Head.SCRIPT_END]:
                    return False
            begin, end = head[Head.TAIL], head[Head.END]
            is_next = self._is_all_made(begin, end)
            if is_next:  # samples of the next epoch, made ahead
                begin, end = max(begin, end), head[Head.PUBLISHED]
            if self._has_too_few(begin, end):
                return False
            # A copy: workers publish without the lock, between two looks at it.
            status = board.run(board.status, begin, end).copy()
            over = np.flatnonzero((status == Status.DONE) | (status == Status.FAILED))
            over, whole = without_whole(board, over, begin)
            count = len(over)
            if whole is not None and (count < rules.batch_size or whole[0] < over[0] + begin):
                if self._is_held(status, len(whole)):
                    return False
                if now_s is not None and waits_for_fast(board, status, begin, whole[0], now_s):
                    return True
                self._emit(whole, is_failure=False)
                continue
            if not count:
                return False
            if count < rules.batch_size:
                pending = (status == Status.PLANNED) | (status == Status.CLAIMED)
                # After failures, which leave by themselves, a full ring may hold less.
                is_last = head[Head.EXHAUSTED] or not board.has_room(rules.batch_size)
                if pending.any() or is_next or not is_last:
                    return False
            chosen = over[: rules.batch_size] + begin
            failed = chosen[board.status.array[chosen & board.mask] == Status.FAILED]
            if len(failed):
                # What failed leaves in its turn, as one error: the others are not lost.
                chosen = failed
            elif len(chosen) < rules.batch_size and rules.drop_last and head[Head.EXHAUSTED]:
                self._retirement.consume(chosen)
                return False
            if self._is_held(status, len(chosen)):
                return False
            if now_s is not None and waits_for_fast(board, status, begin, int(chosen[-1]), now_s):
                return True
            self._emit(chosen, is_failure=bool(len(failed)))
        return False

    def _is_held(self, status: NDArray[np.uint8], count: int) -> bool:
        """Whether the next batch, of ``count`` samples, waits for ``max_displacement``."""
        is_held = exceeds_bound(status, count, self._rules.max_displacement)
        if is_held:
            head = self._board.head
            head[Head.HELD_OUT] = head[Head.OUT_HEAD] + 1
        return is_held

    def _is_all_made(self, begin: int, end: int) -> bool:
        """Whether every sample of this epoch is in a batch, or consumed."""
        board = self._board
        if not board.head[Head.EXHAUSTED]:
            return False
        unmade = (Status.PLANNED, Status.CLAIMED, Status.DONE, Status.FAILED)
        return not board.count(board.status, begin, end, *unmade)

    def _has_too_few(self, begin: int, end: int) -> bool:
        """Whether less than a batch is finished, and more is to come: the usual case."""
        board = self._board
        finished = board.count(board.status, begin, end, Status.DONE, Status.FAILED)
        return finished < self._rules.batch_size and bool(
            board.count(board.status, begin, end, Status.PLANNED, Status.CLAIMED)
        )

    def _emit(self, chosen: NDArray[np.int64], *, is_failure: bool) -> None:
        """Make the next outgoing batch of these positions."""
        board, head = self._board, self._board.head
        number = head[Head.OUT_HEAD]
        out = number & board.out_mask
        board.members[out, : len(chosen)] = chosen
        board.out_fixed.cells[out] = 0
        board.out_count.cells[out] = len(chosen)
        if is_failure:
            self._as_is(out, int(chosen[0]))
        else:
            self._describe(out, chosen)
        board.status.array[chosen & board.mask] = Status.TAKEN
        head[Head.OUT_HEAD] = number + 1

    def _describe(self, out: int, positions: NDArray[np.int64]) -> None:
        """Fill an outgoing entry: ready as it lies, or to be collated."""
        board = self._board
        board.out_attempts.cells[out] = 0
        slot = int(positions[0]) & board.mask
        if board.kind.cells[slot] == Kind.COLLATED:
            self._as_is(out, int(positions[0]))
            return
        home = board.home.cells[slot] & board.home_mask
        count = len(positions)
        block = board.home_block.cells[home]
        if (
            self._rules.rows_are_batch
            and block >= 0
            and count == board.home_count.cells[home]
            and positions[0] == board.home_first.cells[home]
            and positions[-1] == positions[0] + count - 1
            and np.all(board.kind.array[positions & board.mask] == Kind.ROW)
        ):
            board.out_fixed.cells[out] = 1
            board.out_first.cells[out] = int(positions[0])
            board.out_kind.cells[out] = Kind.ROW
            board.out_block.cells[out] = block
            board.out_status.cells[out] = Outgoing.READY
        else:
            board.out_status.cells[out] = Outgoing.COMPOSED

    def _as_is(self, out: int, position: int) -> None:
        """The block of one sample is what leaves: a collated batch, or the first failure."""
        board = self._board
        slot = position & board.mask
        board.out_kind.cells[out] = board.kind.cells[slot]
        board.out_block.cells[out] = board.block.cells[slot]
        board.out_nbytes.cells[out] = board.nbytes.cells[slot]
        board.out_status.cells[out] = Outgoing.READY

    def _out_end(self) -> int:
        head = self._board.head
        return int(head[Head.HOMES] if self._rules.fixed else head[Head.OUT_HEAD])

    def _is_own(self, number: int) -> bool:
        """Whether an outgoing batch is of this epoch, not of the next."""
        board, out = self._board, number & self._board.out_mask
        if self._rules.fixed:
            return bool(number < board.head[Head.HOME_END])
        is_run = board.out_fixed.cells[out]
        first = board.out_first.cells[out] if is_run else board.members[out, 0]
        return bool(first < board.head[Head.END])

    def _first(self, status: int) -> int:
        """The number of the first outgoing batch that stands so, or -1."""
        board = self._board
        found = bytes(board.out_status.cells).find(bytes((status,)))
        if found < 0:
            return -1
        for number in range(board.head[Head.OUT_TAIL], self._out_end()):
            if board.out_status.cells[number & board.out_mask] == status:
                return number
        return -1

    def _is_smaller(self, out: int) -> bool:
        """Whether a batch that was made freely holds fewer samples than the others."""
        board = self._board
        is_short = board.out_count.cells[out] < self._rules.batch_size
        return not self._rules.fixed and is_short and board.out_kind.cells[out] != Kind.ERROR

    def next_ready(self) -> int:
        """The slot of the batch that the training loop may take, or -1."""
        board, tail = self._board, self._board.head[Head.OUT_TAIL]
        if tail == self._out_end():
            return -1
        number = tail
        if board.out_status.cells[tail & board.out_mask] != Outgoing.READY:
            # Another may overtake, but the smaller last batch of an epoch leaves last.
            number = self._first(Outgoing.READY) if self._rules.may_overtake else -1
            if number < 0 or self._is_smaller(number & board.out_mask):
                return -1
        return int(number & board.out_mask) if self._is_own(number) else -1
