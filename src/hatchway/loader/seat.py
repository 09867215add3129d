"""A worker's place at one of the boards that it serves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from hatchway.loader.board import Alive, Head, Parked, Running
from hatchway.loader.card import Card, Guest
from hatchway.loader.schedule import Claim
from hatchway.loader.starving import Need, need_of
from hatchway.loader.task import WorkerTask
from hatchway.loader.worker import Worker

if TYPE_CHECKING:
    from hatchway.loader.commons import Commons


class Seat(Worker):
    """The part of a worker that knows one board; the board's rank may be another."""

    is_guest = False

    def __init__(self, task: WorkerTask) -> None:
        self._is_put_down = self._is_parked = False
        super().__init__(task)

    @property
    def is_over(self) -> bool:
        """Whether the training process of the board stops its workers."""
        return bool(self._board.head[Head.STOP])

    @property
    def may_help(self) -> bool:
        """Whether it makes what other ranks' workers make: not if ``worker_init_fn`` failed."""
        return self._samples.init_failure is None

    @property
    def parent_alive(self) -> int | None:
        """A descriptor that becomes readable when the own training process ends."""
        return self._parent_alive

    @property
    def look_again_s(self) -> float | None:
        """When to look at the board again if nobody rings, or None."""
        return self._admission.look_again_s

    def need(self) -> Need:
        """How much the board needs another worker."""
        batch_size = self._commons.config.rules.batch_size
        now_s = time.monotonic()
        need = need_of(self._board, batch_size, now_s, as_guest=self.is_guest)
        is_expected = not self.is_guest and self._board.parked.cells[self._id] == Parked.NO
        if is_expected and not need.has_batch:
            return need._replace(is_done=False)  # who waits for memory gives up only after it
        return need

    def fileno(self) -> int:
        """The descriptor of its bell."""
        return self._bell.fileno()

    def silence(self) -> None:
        """Forget the rings so far."""
        self._bell.silence()

    def visit(self) -> Claim | int | None:
        """Hand in what is finished, and take work; as :meth:`Worker._next_work`."""
        self._board.parked.cells[self._id] = Parked.NO
        work = self._next_work()
        self._is_parked = work is None
        return work

    def work(self, work: Claim | int) -> None:
        """Do what a visit brought."""
        self.listen()
        self._do(work)

    def listen(self) -> None:
        """From now on it is here that samples are made."""
        self._samples.tell_key()

    def put_down(self) -> None:
        """Hand in what is finished, take nothing, and come back later."""
        self._is_put_down = True
        try:
            self._next_work()
        finally:
            self._is_put_down = False

    def go_elsewhere(self) -> None:
        """Let nobody ring for this worker: it is about to work for another board."""
        if not self._is_parked:
            return
        self._is_parked = False
        commons, parked = self._commons, self._board.parked.cells
        with self._visit:
            if parked[self._id] == Parked.ASLEEP:
                parked[self._id] = Parked.ELSEWHERE
            elif commons.delivery.has_to_collate() or commons.schedule.has_work():
                commons.wake_an_idle_worker()  # whoever rang meanwhile counts on somebody

    def _is_leaving(self) -> bool:
        return self._is_put_down or super()._is_leaving()

    def _next_work_natively(self, last: int) -> Claim | None:
        return None if self._is_put_down else super()._next_work_natively(last)


class GuestSeat(Seat):
    """A place at another rank's board.

    Args:
        own: The worker's place at its own rank's board.
        commons: Of the other rank.
        worker_id: The worker's id there.
    """

    is_guest = True

    def __init__(self, own: Seat, commons: Commons, worker_id: int) -> None:
        super().__init__(own._task._replace(commons=commons, worker_id=worker_id))
        self._samples.start_beside(own._samples)
        self._admission.spans = self._samples.spans

    def give_back(self) -> None:
        """Plan again what is claimed, for others: here a guest does not wait for memory."""
        board, commons, me = self._board, self._commons, self._id
        with self._visit:
            self._samples.hand_over()
            commons.schedule.reclaim(me, may_blame=False)
            commons.heap.repair(commons.delivery.referenced_blocks(), {me}, keeps_loans=True)
            commons.delivery.compose()
            board.alive.cells[me] = Alive.GUEST
            commons.wake_an_idle_worker()
        commons.bell.ring()
        commons.wake_for_memory()  # nobody else may come to make or free some

    def leave(self, card: Card, first_guest: int) -> None:
        """Have nothing to do with the board any more; the id is free."""
        self.put_down()
        leave_seat(self._commons, card, first_guest, self._id)

    def close(self) -> None:
        """Let go of the board's memory and descriptors."""
        commons, bell = self._commons, self._bell
        vars(self).clear()  # its parts refer to it, and they hold the memory
        commons.let_go()
        bell.close()

    def _sleep(self) -> bool:
        return False  # not for memory: what it claimed is given back

    def _watch_parent(self) -> None:
        self._parent_alive = None


def take_seat(commons: Commons, card: Card, first_guest: int, note: list[int]) -> int:
    """Take a free id on another rank's board.

    Args:
        commons: The rank's.
        card: The rank's.
        first_guest: The lowest id for guests.
        note: What is noted on the card, but for the columns after it: see ``Guest``.

    Returns:
        The id, or -1 if none is free, or the rank stops its workers.
    """
    board, guests = commons.board, card.guests
    with commons.locked(commons.newcomer):
        is_taken = board.alive.array[first_guest : first_guest + len(guests)] != Alive.GONE
        free = np.flatnonzero(~is_taken & (guests[:, Guest.PID] == 0))
        if not len(free) or board.head[Head.STOP]:
            return -1
        row = int(free[0])
        guests[row, Guest.STARTED :] = note[Guest.STARTED :]
        guests[row, Guest.PID] = note[Guest.PID]
        worker_id = first_guest + row
        board.span.cells[worker_id] = 0
        board.started.cells[worker_id] = 0.0
        board.running.cells[worker_id] = Running.NOTHING
        board.parked.cells[worker_id] = Parked.NO
        board.alive.cells[worker_id] = Alive.GUEST
        commons.count_workers()
    return worker_id


def leave_seat(commons: Commons, card: Card, first_guest: int, worker_id: int) -> None:
    """Free an id on another rank's board, at which nothing is claimed any more."""
    head = commons.board.head
    with commons.locked(worker_id):
        # What is kept of a board that stops nobody else needs.
        commons.heap.repair(
            commons.delivery.referenced_blocks(), {worker_id}, keeps_loans=bool(head[Head.STOP])
        )
        commons.board.alive.cells[worker_id] = Alive.GONE
        card.guests[worker_id - first_guest, Guest.PID] = 0
        commons.count_workers()
