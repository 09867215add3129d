"""Which position runs next, and on which worker. Pure: a function of the board."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hatchway.loader.board import Alive, Board, Head, Kind, Outgoing, Running, Status
from hatchway.loader.heap import Heap
from hatchway.loader.script import is_awaited


@dataclass(frozen=True)
class Claim:
    """Positions [first, first + count) of one home batch, given to one worker."""

    first: int
    count: int


class Reclaimed(NamedTuple):
    """What a dead worker left: what it died on, if anything, and how often that was.

    Attributes:
        position: A sample, or the first of a batch that it collated at once.
        outgoing: The slot of an outgoing batch that it collated.
        was_collating: Whether it was in ``collate_fn``.
        attempts: How many workers died on it.
    """

    position: int | None
    outgoing: int | None
    was_collating: bool
    attempts: int


class Schedule:
    """Plans positions and hands them to workers, earliest first.

    Args:
        board: The loader's board.
        heap: Where samples lie.
        batch_size: Samples in a batch where batches are made freely; None where a
            batch is a home batch.
    """

    def __init__(self, board: Board, heap: Heap, batch_size: int | None = None) -> None:
        self._board = board
        self._heap = heap
        self._batch_size = batch_size

    def publish(self, count: int, keys: NDArray[np.int64] | None, keys_block: int = -1) -> int:
        """Plan a home batch; return its number.

        Twin: plan_home in native/loader/turns.hpp, for keys that are plain ints.

        Args:
            count: How many samples the batch has.
            keys: The dataset's indices, or None when they are not plain ints.
            keys_block: The block that holds them then, pickled.
        """
        board, head = self._board, self._board.head
        first, home = head[Head.PUBLISHED], head[Head.HOMES]
        end = first + count
        slot = home & board.home_mask
        board.home_first.cells[slot] = first
        board.home_count.cells[slot] = count
        board.home_block.cells[slot] = -1
        board.home_keys.cells[slot] = keys_block
        board.home_emitted.cells[slot] = 0
        board.home_epoch.cells[slot] = head[Head.PLAN_EPOCH]
        board.home_start.cells[slot] = head[Head.PLAN_START]
        taken = 0
        for part in board.slots(first, end):
            size = part.stop - part.start
            board.attempts.array[part] = 0
            board.kind.array[part] = Kind.NONE
            board.cost.array[part] = board.lead.array[part] = 0
            board.block.array[part] = -1
            board.home.array[part] = home
            board.row.array[part] = np.arange(taken, taken + size, dtype=np.int32)
            if keys is not None:
                board.key.array[part] = keys[taken : taken + size]
            board.status.array[part] = Status.PLANNED
            taken += size
        head[Head.HOMES] = home + 1
        head[Head.PUBLISHED] = end
        if head[Head.PLAN_EPOCH] == head[Head.EPOCH]:
            head[Head.HOME_END] = home + 1
            head[Head.END] = end
        return int(home)

    def foresee(self, first: int, cost_s: NDArray[np.float32], lead: NDArray[np.int32]) -> None:
        """Note what the samples of the home batch planned last are predicted to cost.

        Args:
            first: Its first position.
            cost_s: Seconds of each sample; 0 where nothing is known.
            lead: How many positions before its turn each is to be started.
        """
        board = self._board
        board.write(board.cost, first, cost_s)
        board.write(board.lead, first, lead)
        board.head[Head.NUM_EARLY] += int(np.count_nonzero(lead))

    def claim(self, worker: int, want: int, *, memory_left: bool = True) -> Claim | None:
        """Give ``worker`` up to ``want`` positions of one home batch.

        Twin: claim in native/loader/turns.hpp, for those after the cursor.

        Args:
            worker: Who asks.
            want: How many samples make about a millisecond of work.
            memory_left: False where the buffer is nearly full: then only what
                the next batch needs is handed out.
        """
        board, head = self._board, self._board.head
        if head[Head.NUM_RETRY]:
            retry = self._next_retry(worker, want)
            if retry is not None:
                return retry
        first = self._skip_begun()
        if first == head[Head.PUBLISHED] or not (memory_left or self._needed(first)):
            return None
        count = 1
        if want > 1:
            home = board.home.cells[first & board.mask] & board.home_mask
            home_end = board.home_first.cells[home] + board.home_count.cells[home]
            most = min(want, head[Head.PUBLISHED] - first, home_end - first)
            while count < most and (
                board.status.cells[(first + count) & board.mask] == Status.PLANNED
            ):
                count += 1
        self._give(worker, first, count)
        self._skip_begun()
        return Claim(first, count)

    def next_early(self, worker: int) -> int:
        """The position that is to be started before its turn, now; -1 if there is none.

        Among the samples that are predicted slow it is the one whose latest start
        comes first, if that has come: its lead is how many positions the training
        loop takes while it runs. The last worker without a slow sample takes
        another one only where enough samples are finished to go on meanwhile.
        Twin: next_early in native/loader/turns.hpp.

        Args:
            worker: Who asks.
        """
        board, head = self._board, self._board.head
        cursor, end = head[Head.CURSOR], head[Head.PUBLISHED]
        lead = board.run(board.lead, cursor, end)
        status = board.run(board.status, cursor, end)
        waiting = np.flatnonzero((lead > 0) & (status == Status.PLANNED))
        if not len(waiting):
            head[Head.NUM_EARLY] = 0
            return -1
        latest = waiting - lead[waiting]
        chosen = int(np.argmin(latest))
        if latest[chosen] > 0:
            return -1
        offset = int(waiting[chosen])
        num_slow, num_processes = self._num_predicted_slow(worker), head[Head.NUM_PROCESSES]
        if num_slow >= num_processes - 1:
            finished = board.count(board.status, head[Head.TAIL], end, Status.DONE, Status.TAKEN)
            if num_slow >= num_processes or finished * num_processes < lead[offset]:
                return -1
        return int(cursor + offset)

    def claim_early(self, worker: int, position: int) -> Claim:
        """Give ``worker`` a position before its turn."""
        self._give(worker, position, 1)
        self._skip_begun()
        return Claim(position, 1)

    def give_up(self, first: int, count: int) -> None:
        """Plan again what was claimed and has not begun (a slow sample is before it)."""
        self._note_planned(first, count)
        self._board.assign(self._board.status, first, first + count, Status.PLANNED)

    def next_home_count(self) -> int:
        """How many samples the home batch has that is claimed next, in whole."""
        board, head = self._board, self._board.head
        position = head[Head.CURSOR]
        if head[Head.NUM_RETRY]:
            begin = head[Head.TAIL]
            planned = board.run(board.status, begin, position) == Status.PLANNED
            position = begin + int(np.argmax(planned)) if planned.any() else position
        return int(
            board.home_count.cells[board.home.cells[position & board.mask] & board.home_mask]
        )

    def has_work(self) -> bool:
        """Whether some position waits for a worker."""
        head = self._board.head
        return bool(head[Head.CURSOR] < head[Head.PUBLISHED] or head[Head.NUM_RETRY])

    def reclaim(self, worker: int, *, may_blame: bool = True) -> Reclaimed:
        """Plan again everything that a dead worker had claimed and not finished.

        Args:
            worker: Its id.
            may_blame: Whether it may have died of what it was at.
        """
        board, head = self._board, self._board.head
        current = board.current.cells[worker]
        doing = board.running.cells[worker]
        died_on: int | None = None
        outgoing: int | None = None
        attempts = 0
        for slot in np.flatnonzero(board.out_status.array == Outgoing.COLLATING).tolist():
            if board.out_worker.cells[slot] == worker:
                board.out_status.cells[slot] = Outgoing.COMPOSED
                board.out_attempts.cells[slot] += may_blame
                outgoing, attempts = slot, board.out_attempts.cells[slot]
        begin, end = head[Head.TAIL], head[Head.PUBLISHED]
        status = board.run(board.status, begin, end)
        mine = (status == Status.CLAIMED) & (board.run(board.worker, begin, end) == worker)
        if doing == Running.COLLATE and outgoing is None and mine.any():
            # It collated its claim at once: the batch's first sample stands for it.
            current = begin + int(np.argmax(mine))
        for offset in np.flatnonzero(mine).tolist():
            position = begin + offset
            slot = position & board.mask
            if board.block.cells[slot] >= 0:
                self._heap.release(board.block.cells[slot])
                board.block.cells[slot] = -1
            if doing in (Running.SAMPLE, Running.COLLATE) and position == current:
                board.attempts.cells[slot] += may_blame
                died_on, attempts = position, board.attempts.cells[slot]
            board.status.cells[slot] = Status.PLANNED
            self._note_planned(position, 1)
        homes = board.run(board.home, begin, end)[mine]
        for home in np.unique(homes).tolist():
            self._uncollate(home)
        board.span.cells[worker] = 0
        board.running.cells[worker] = 0
        board.parked.cells[worker] = 0
        board.alive.cells[worker] = Alive.GONE
        return Reclaimed(died_on, outgoing, doing == Running.COLLATE, attempts)

    def _uncollate(self, home: int) -> None:
        """Plan again the samples of a batch whose maker died while handing it over."""
        board = self._board
        for position in self._members_of(home):
            slot = position & board.mask
            if board.kind.cells[slot] == Kind.COLLATED and board.status.cells[slot] == Status.DONE:
                if board.block.cells[slot] >= 0:
                    self._heap.release(board.block.cells[slot])
                    board.block.cells[slot] = -1
                board.status.cells[slot] = Status.PLANNED
                self._note_planned(position, 1)

    def fail(self, position: int, block: int, nbytes: int) -> None:
        """Give a position up for good; the block holds the pickled failure."""
        board = self._board
        slot = position & board.mask
        board.block.cells[slot] = block
        board.nbytes.cells[slot] = nbytes
        board.kind.cells[slot] = Kind.ERROR
        board.status.cells[slot] = Status.FAILED
        self._heap.adopt(block)

    def fail_batch(self, members: list[int], block: int, nbytes: int) -> None:
        """Give a home batch up for good; the block holds the pickled failure."""
        board = self._board
        slot = members[0] & board.mask
        board.nbytes.cells[slot] = nbytes
        board.block.cells[slot] = block
        board.assign(board.kind, members[0], members[-1] + 1, Kind.COLLATED)
        board.assign(board.status, members[0], members[-1] + 1, Status.DONE)
        self._heap.adopt(block)

    def home_of(self, position: int) -> list[int]:
        """The positions of the home batch that holds ``position``."""
        board = self._board
        return list(self._members_of(board.home.cells[position & board.mask]))

    def _members_of(self, home: int) -> range:
        board, slot = self._board, home & self._board.home_mask
        first = board.home_first.cells[slot]
        return range(first, first + board.home_count.cells[slot])

    def key_of(self, position: int, view: Callable[[int, int], memoryview]) -> Any:
        """The dataset's index at a position, of whatever type."""
        board = self._board
        slot = position & board.mask
        block = board.home_keys.cells[board.home.cells[slot] & board.home_mask]
        if block < 0:
            return board.key.cells[slot]
        return pickle.loads(view(block, board.block_bytes.cells[block]))[board.row.cells[slot]]

    def abandon(self) -> None:
        """Hand out nothing more of this epoch."""
        board, head = self._board, self._board.head
        begin, end = head[Head.TAIL], head[Head.PUBLISHED]
        for part in board.slots(begin, end):
            status = board.status.array[part]
            status[status == Status.PLANNED] = Status.CONSUMED
        head[Head.CURSOR] = head[Head.END] = end
        head[Head.HOME_END] = head[Head.HOMES]
        head[Head.NUM_RETRY] = head[Head.NUM_EARLY] = 0
        head[Head.EXHAUSTED] = 1

    def _skip_begun(self) -> int:
        """Move the cursor over what was started before its turn; return it."""
        board, head = self._board, self._board.head
        first = head[Head.CURSOR]
        while first < head[Head.PUBLISHED] and (
            board.status.cells[first & board.mask] != Status.PLANNED
        ):
            first += 1
        head[Head.CURSOR] = first
        return int(first)

    def _note_planned(self, first: int, count: int) -> None:
        """These positions wait again: note where they are to be looked for."""
        head = self._board.head
        head[Head.NUM_RETRY if first < head[Head.CURSOR] else Head.NUM_EARLY] += count

    def _num_predicted_slow(self, but: int) -> int:
        """How many workers, but for one, are at a sample that was predicted slow."""
        board = self._board
        at_sample = board.running.array == Running.SAMPLE
        at_sample[but] = False
        at = board.current.array[at_sample & (board.alive.array != Alive.GONE)]
        return int(np.count_nonzero(board.run_at(board.lead, at)))

    def _give(self, worker: int, first: int, count: int) -> None:
        board = self._board
        if count == 1:
            slot = first & board.mask
            board.worker.cells[slot] = worker
            board.status.cells[slot] = Status.CLAIMED
            return
        board.assign(board.worker, first, first + count, worker)
        board.assign(board.status, first, first + count, Status.CLAIMED)

    def _next_retry(self, worker: int, want: int) -> Claim | None:
        board, head = self._board, self._board.head
        begin = head[Head.TAIL]
        status = board.run(board.status, begin, head[Head.CURSOR])
        planned = np.flatnonzero(status == Status.PLANNED)
        if not len(planned):
            head[Head.NUM_RETRY] = 0
            return None
        first = begin + int(planned[0])
        home = board.home.cells[first & board.mask]
        count = 1
        while count < min(want, len(planned)):
            following = begin + int(planned[count])
            if following != first + count or board.home.cells[following & board.mask] != home:
                break
            count += 1
        self._give(worker, first, count)
        head[Head.NUM_RETRY] = len(planned) - count
        return Claim(first, count)

    def _needed(self, position: int) -> bool:
        """Whether the next batch cannot be made without ``position``."""
        board, head = self._board, self._board.head
        if head[Head.HELD_OUT] == head[Head.OUT_HEAD] + 1:
            return True  # what is finished must wait for it
        if is_awaited(board):
            return True
        if position >= head[Head.END]:
            return False  # of the next epoch
        made = board.out_status.array
        if self._batch_size is None:
            # Whatever was started early is of no use to a loop that waits for the next in turn.
            out = head[Head.OUT_TAIL] & board.out_mask
            made = made[out : out + 1]
        if ((made >= Outgoing.COMPOSED) & (made <= Outgoing.READY)).any():
            return False
        begin = head[Head.TAIL]
        status = board.run(board.status, begin, head[Head.CURSOR])
        under_way = np.count_nonzero((status == Status.CLAIMED) | (status == Status.DONE))
        home = board.home.cells[position & board.mask] & board.home_mask
        return bool(under_way < (self._batch_size or board.home_count.cells[home]))
