"""How far ahead of the training loop the sampler is read and samples are planned."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hatchway.loader.arrival import NotYet, patient
from hatchway.loader.board import Block, Head, Outgoing, Status, Waiting
from hatchway.loader.commons import Commons
from hatchway.loader.filled import may_follow
from hatchway.loader.foresight import Foresight
from hatchway.loader.homekeys import StoredKeys, plan_keys
from hatchway.loader.progress import Progress, plain, read_again, trace
from hatchway.loader.script import Script, missing_position


def nothing_upcoming() -> None:
    """What comes next is not known."""


def _then_raise(drawn: list[Any], error: Exception) -> Iterator[Any]:
    yield from drawn
    raise error


class Plan:
    """Reads the sampler and publishes home batches, a bounded window ahead.

    Args:
        commons: The board.
        window: How many batches may be planned and not delivered.
        batch_size: Samples a batch where batches are made freely, else None.
        single: Whether the sampler yields single indices (``batch_size=None``).
        foresight: Predicts what samples cost, or None.

    Attributes:
        has_plain_indices: Whether all keys so far were ints.
        progress: How far the epoch has come.
        window: How many batches may be planned and not delivered.
        awaits: Descriptors: one becomes readable when the sampler has more to yield.
    """

    def __init__(
        self,
        commons: Commons,
        *,
        window: int,
        batch_size: int | None,
        single: bool,
        foresight: Foresight | None = None,
    ) -> None:
        self._commons = commons
        self._board = commons.board
        self.window = window
        self._batch_size = batch_size
        self._single = single
        self._foresight = foresight
        self._script: Script | None = None
        self._goes_on = False
        self._in_hand: NDArray[np.int64] | None = None
        self.has_plain_indices = True
        self.progress = Progress()
        self.awaits: tuple[int, ...] = ()
        self._sampler: Iterator[Any] = iter(())
        self._exhausted = True
        self._error: Exception | None = None
        self._num_homes = 0
        self._num_planned = 0
        self._num_batches = 0
        self._num_delivered = 0
        self._waiting: list[list[Any]] = []
        self._foresee_order: Callable[[], Iterator[Any] | None] = nothing_upcoming
        self._upcoming: Iterator[Any] | None = None
        self._upcoming_waits: list[list[Any]] = []
        self._prepared: list[list[Any]] = []

    def begin(
        self,
        sampler: Iterator[Any],
        upcoming: Callable[[], Iterator[Any] | None] = nothing_upcoming,
        progress: Progress | None = None,
        script: Script | None = None,
    ) -> None:
        """Start an epoch, or go on with one.

        Args:
            sampler: Yields what torch's index sampler yields.
            upcoming: Called when the sampler is exhausted, for what it will yield in
                the next epoch: those samples are made ahead. None if that is not known.
            progress: How far the epoch had come, if it goes on: what was delivered is
                left out. ``sampler`` begins at its beginning.
            script: The recorded order in which its samples leave, or None.

        Raises:
            StateError: If ``sampler`` does not yield what it did then.
        """
        head = self._board.head
        self._start(sampler, upcoming)
        self._num_homes = self._num_planned = 0
        num_skipped = 0
        if progress is not None:
            self._goes_on = True
            again = map(self._listed, patient(sampler))
            self._waiting, self.progress, num_skipped = read_again(again, progress)
        head[Head.EPOCH_START] = head[Head.PUBLISHED] - num_skipped
        self._close_in(head[Head.EPOCH])
        if script is not None:
            self._script = script
            head[Head.SCRIPT_KNOWN] = script.num_known(num_skipped)
            head[Head.SCRIPT_END] = script.num_turns

    def check_prepared(self, sampler: Iterator[Any]) -> Iterator[Any] | None:
        """Compare what was made ahead with what ``sampler`` yields now.

        Returns:
            None if they are the same, as far as it goes: see :meth:`adopt`. Otherwise
            what ``sampler`` yields, to begin with.
        """
        drawn: list[Any] = []
        for keys in self._prepared:
            try:
                drawn.append(next(sampler))
            except StopIteration:
                return iter(drawn)
            except Exception as error:
                return _then_raise(drawn, error)
            if self._listed(drawn[-1]) != keys:
                return itertools.chain(drawn, sampler)
        return None

    @property
    def has_prepared(self) -> bool:
        """Whether samples of the next epoch were planned ahead."""
        return bool(self._prepared)

    def adopt(
        self,
        sampler: Iterator[Any],
        upcoming: Callable[[], Iterator[Any] | None] = nothing_upcoming,
    ) -> None:
        """Start an epoch with what was made ahead for it; the one before is finished.

        Holds the lock.

        Args:
            sampler: Yields what comes after it.
            upcoming: As in :meth:`begin`.
        """
        head = self._board.head
        prepared = self._prepared
        self._start(sampler, upcoming)
        self._num_homes = len(prepared)
        self._num_planned = sum(map(len, prepared))
        for keys in prepared:
            self.progress.read(plain(keys))
        head[Head.EPOCH_START] = head[Head.END]
        head[Head.EPOCH] += 1
        self._close_in(head[Head.EPOCH])

    def _start(self, sampler: Iterator[Any], upcoming: Callable[[], Iterator[Any] | None]) -> None:
        self._sampler, self._foresee_order, self._upcoming = sampler, upcoming, None
        self._exhausted = False
        self._error = None
        self._num_batches = self._num_delivered = 0
        self._waiting, self._upcoming_waits, self._prepared = [], [], []
        self.progress = Progress()
        self._script, self._goes_on = None, False
        head = self._board.head
        head[Head.SCRIPT_TURN] = head[Head.SCRIPT_KNOWN] = head[Head.SCRIPT_END] = 0
        head[Head.EXHAUSTED] = 0

    def _close_in(self, epoch: int) -> None:
        """All that is published belongs to this epoch, and what is published next, too."""
        head = self._board.head
        head[Head.END], head[Head.HOME_END] = head[Head.PUBLISHED], head[Head.HOMES]
        head[Head.PLAN_EPOCH], head[Head.PLAN_START] = epoch, head[Head.EPOCH_START]

    def draw(self, at_most: int | None) -> int:
        """Read batches of keys from the sampler, as many as the window takes.

        With ``at_most=1`` one is read although the window is full: the caller is
        about to take a batch. What the sampler raises is kept for :meth:`end`.

        Returns:
            How many were read, and one more if it is new that there are no others;
            all this is planned by :meth:`publish`.
        """
        self.awaits = ()
        if self._waiting or self._upcoming_waits:
            return 0  # displaced samples hold the ring; they come first
        was_exhausted = self._exhausted
        while not self._exhausted and len(self._waiting) != at_most:
            if not self._has_room(len(self._waiting) - (1 if at_most == 1 else 0)):
                break
            try:
                keys = next(self._sampler)
                self._waiting.append(self._listed(keys))
            except StopIteration:
                self._exhausted = True
            except NotYet as wait:
                self.awaits = wait.descriptors
                break
            except Exception as error:
                self._error, self._exhausted = error, True
        if self._exhausted and self._error is None and not self._waiting:
            self._draw_ahead()
        is_new = self._exhausted and not was_exhausted
        return len(self._waiting) + len(self._upcoming_waits) + is_new

    def _draw_ahead(self) -> None:
        """Read what the next epoch will begin with, as much as the window takes."""
        if self._foresee_order is not nothing_upcoming:
            if self.has_plain_indices:
                self._upcoming = self._foresee_order()
            self._foresee_order = nothing_upcoming
        while self._upcoming is not None and self._has_room(len(self._upcoming_waits)):
            keys = next(self._upcoming, None)
            if keys is None:
                self._upcoming = None
            else:
                self._upcoming_waits.append(self._listed(keys))

    def publish(self) -> None:
        """Plan the batches that were drawn. Holds the lock."""
        while self._waiting:
            keys = self._waiting[0]
            if len(keys) > self._board.mask + 1:
                raise ValueError(
                    f"batch_sampler yielded a batch of {len(keys)} indices; at most "
                    f"{self._board.mask + 1} are possible; use smaller batches"
                )
            if keys and not (self._board.has_room(len(keys)) and may_follow(self._commons)):
                break
            if keys:
                self.progress.read(self._publish(keys))
                self._num_homes += 1
                self._num_planned += len(keys)
                if self._script is not None:
                    self._note_turns(self._script, len(keys))
                if self._goes_on:
                    self._leave_out(len(keys))
            else:
                self.progress.read(np.empty(0, np.int64))
            del self._waiting[0]
        if self._exhausted and not self._waiting:
            self._board.head[Head.EXHAUSTED] = 1
            self._end_script()
        self._publish_ahead()

    def _end_script(self) -> None:
        """What was recorded and will never be planned is an error, after everything else."""
        head = self._board.head
        if self._script is None or head[Head.SCRIPT_KNOWN] == head[Head.SCRIPT_END]:
            return
        lost = int(self._script.batches[head[Head.SCRIPT_KNOWN]].max())
        num_samples = head[Head.END] - head[Head.EPOCH_START]
        head[Head.SCRIPT_END] = head[Head.SCRIPT_KNOWN]
        self._error = self._error or missing_position(lost, num_samples)

    def _publish_ahead(self) -> None:
        board, head = self._board, self._board.head
        while self._upcoming_waits and board.has_room(len(self._upcoming_waits[0])):
            head[Head.PLAN_EPOCH] = head[Head.EPOCH] + 1
            head[Head.PLAN_START] = head[Head.END]
            keys = self._upcoming_waits.pop(0)
            self._publish(keys)
            self._prepared.append(keys)
            self._num_homes += 1
            self._num_planned += len(keys)

    def _note_turns(self, script: Script, count: int) -> None:
        """Note in which recorded batch each sample of the batch published last leaves."""
        board, head = self._board, self._board.head
        first = head[Head.PUBLISHED] - count
        rank = first - head[Head.EPOCH_START]
        board.write(board.turn, first, script.turns_of(rank, count))
        head[Head.SCRIPT_KNOWN] = script.num_known(rank + count)

    def _leave_out(self, count: int) -> None:
        """Take away what was delivered, before this pass went on, of the batch published last."""
        board, head = self._board, self._board.head
        first = head[Head.PUBLISHED] - count
        rank = first - head[Head.EPOCH_START]
        if rank >= self.progress.end:
            return
        gone = self.progress.delivered_of(rank, count)
        if not len(gone):
            return
        if self._commons.config.rules.fixed:
            home = head[Head.HOMES] - 1
            board.home_emitted.cells[home & board.home_mask] = 1
            board.out_status.cells[home & board.out_mask] = Outgoing.TAKEN
            self._num_batches += 1
        self._num_delivered += len(gone)
        self._commons.delivery.forget(gone + head[Head.EPOCH_START])

    def end(self) -> None:
        """Every batch was delivered: raise, once, what the sampler raised after them."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame, and so the workers

    def delivered(self, positions: NDArray[np.int64]) -> None:
        """The training loop took a batch of these samples."""
        self._num_batches += 1
        self._num_delivered += len(positions)
        self._in_hand = positions
        self.progress.deliver(positions, self._board.head[Head.EPOCH_START])

    def arrived(self) -> None:
        """The batch that was delivered last is the caller's, or its failure was raised."""
        self._in_hand = None

    def take_back(self) -> None:
        """What was delivered and did not arrive, since Ctrl-C came between, is left to be done."""
        if self._in_hand is not None:
            self.progress.take_back(self._in_hand - self._board.head[Head.EPOCH_START])
            self._in_hand = None

    def work_left(self) -> int:
        """How many pieces of work wait for a worker. Holds the lock."""
        head = self._board.head
        composed = bytes(self._board.out_status.cells).count(bytes((Outgoing.COMPOSED,)))
        planned = head[Head.PUBLISHED] - head[Head.CURSOR] + head[Head.NUM_RETRY]
        return int(composed + planned)

    def forget(self) -> None:
        """Drop everything planned or finished, when no worker runs. Holds the lock."""
        board, delivery = self._board, self._commons.delivery
        head = board.head
        for slot in np.flatnonzero(board.out_status.array == Outgoing.READY).tolist():
            board.out_status.cells[slot] = Outgoing.EMPTY
            block = board.out_block.cells[slot]
            members = delivery.members(slot)
            members = members[members >= head[Head.TAIL]]
            delivery.forget(members[board.run_at(board.status, members) == Status.TAKEN])
            if board.block_state.cells[block] == Block.USED:
                # Not a sample's own, nor a home batch's: those are consumed just now.
                self._commons.heap.release(block)
        board.out_status.array[:] = Outgoing.EMPTY
        begin, end = head[Head.TAIL], head[Head.PUBLISHED]
        positions = np.arange(begin, end, dtype=np.int64)
        left = positions[board.run_at(board.status, positions) != Status.CONSUMED]
        delivery.forget(left)
        if self._commons.config.rules.fixed:
            head[Head.OUT_TAIL] = head[Head.HOMES]
        else:
            head[Head.OUT_TAIL] = head[Head.OUT_HEAD]
        head[Head.EPOCH] += 1
        head[Head.WAITING] = Waiting.NOTHING

    def _listed(self, keys: Any) -> list[Any]:
        if isinstance(keys, StoredKeys):
            return keys
        return [keys] if self._single else list(keys)

    def _has_room(self, ahead: int) -> bool:
        if self._batch_size is None:
            return self._num_homes - self._num_batches + ahead < self.window
        head = self._board.head
        if ahead <= 0 and head[Head.SCRIPT_KNOWN] <= head[Head.SCRIPT_TURN] < head[Head.SCRIPT_END]:
            return True  # a recorded batch waits for a sample that is not planned yet
        planned = self._num_planned + ahead * self._batch_size
        return planned - self._num_delivered < self.window * self._batch_size

    def _publish(self, keys: list[Any]) -> NDArray[np.int64] | None:
        """Plan a home batch; return its keys, or their checksums, if they are plain ints."""
        kernel, schedule = self._commons.kernel, self._commons.schedule
        if isinstance(keys, StoredKeys):
            self.has_plain_indices = False
            keys.plan()
            return trace(keys)
        first = self._board.head[Head.PUBLISHED]
        if kernel is None or not kernel.plan(keys):
            indices = plain(keys)
            if indices is None:
                self.has_plain_indices = False
                plan_keys(self._commons, keys)
                return None
            schedule.publish(len(keys), indices)
        planned = self._board.run(self._board.key, first, first + len(keys))
        if self._foresight is not None:
            found = self._foresight.look(planned)
            if found is not None:
                schedule.foresee(first, *found)
        return planned
