"""A worker process that serves the boards of all ranks on its host."""

from __future__ import annotations

import contextlib
import os
import time

from hatchway.loader.card import Address, Card, Neighbour
from hatchway.loader.distant import started, watch
from hatchway.loader.errors import SharedMemoryError
from hatchway.loader.schedule import Claim
from hatchway.loader.seat import GuestSeat, Seat, leave_seat, take_seat
from hatchway.loader.shared import wait_readable
from hatchway.loader.starving import nearest_to_starving
from hatchway.loader.store import TrainingProcessGone
from hatchway.loader.task import WorkerTask
from hatchway.loader.worker import prepare

# A worker that is never out of work looks this often whether a training process is gone.
_LOOK_S = 0.25
# Nobody rings a worker that refuses what there is to do: it looks whether that has changed.
_LOOK_AGAIN_S = 0.05


def main(task: WorkerTask, card: Card) -> None:
    """Entry point of a worker process that the ranks of a host share."""
    prepare(task)
    SharedWorker(Seat(task), card).run()


class Visited:
    """Another rank's board that this worker serves.

    Attributes:
        seat: Its place there.
        ended: A descriptor that becomes readable when the rank's training process ends.
    """

    def __init__(self, address: Address, own: Seat, note: list[int]) -> None:
        with contextlib.ExitStack() as made:
            self._rank = rank = Neighbour(address)
            made.callback(rank.close)
            # Of that process, since more of it is opened after: numbers are used again.
            self.ended = watch(address.pid)
            made.callback(os.close, self.ended)
            commons = rank.commons()
            made.callback(commons.let_go)
            worker_id = take_seat(commons, rank.card, rank.num_own, note)
            if worker_id < 0:
                raise OSError(f"process {address.pid} takes no more guests")
            made.callback(leave_seat, commons, rank.card, rank.num_own, worker_id)
            bell = rank.bell_of(worker_id)
            commons.worker_bells[worker_id] = bell
            self.seat = GuestSeat(own, commons, worker_id)
            made.pop_all()

    def leave(self) -> None:
        """Hand in what is finished and give the place up."""
        self.seat.leave(self._rank.card, self._rank.num_own)
        self.close()

    def close(self) -> None:
        """Let go of everything."""
        self.seat.close()
        self._rank.close()
        os.close(self.ended)


class SharedWorker:
    """The loop of a worker that goes to whichever board is nearest to starving.

    Args:
        own: Its place at its own rank's board.
        card: Its own rank's card.
    """

    def __init__(self, own: Seat, card: Card) -> None:
        self._own = own
        self._card = card
        self._visited: dict[Address, Visited] = {}
        self._seats: list[Seat] = [own]
        self._at: Seat | None = None  # where something may be to be handed in
        self._refuses = False
        self._version = 0
        self._looked_s = time.monotonic()

    def run(self) -> None:
        """Work until told to stop by the own rank, or until that is gone."""
        with contextlib.suppress(TrainingProcessGone):
            self._own.begin()
            while self._own_is_there():
                self._meet()
                found = self._find_work()
                if found is None:
                    if not self._sleep():
                        break
                    continue
                seat, work = found
                try:
                    seat.work(work)
                except TrainingProcessGone:
                    if not isinstance(seat, GuestSeat):
                        raise
                    seat.give_back()
                    self._at = None
        for visited in list(self._visited.values()):
            self._part_from(visited)
        if self._at is self._own:
            self._own.put_down()

    def _find_work(self) -> tuple[Seat, Claim | int] | None:
        """Take work from the board that needs it most; None if none has any."""
        seats = list(self._seats)
        at = -1 if self._at is None else seats.index(self._at)
        needs = [seat.need() for seat in seats] if len(seats) > 1 else []
        order = nearest_to_starving(needs, at) if needs else [0]
        if at >= 0 and order[0] != at:
            seats[at].put_down()
        self._at, self._refuses = None, False
        for number in order:
            if needs and needs[number].is_refused:
                seats[number].go_elsewhere()
                self._refuses = True
                continue
            work = seats[number].visit()
            if work == -1:
                self._stop_at(seats[number])
            elif work is not None:
                self._at = seats[number]
                for other in self._seats:
                    if other is not self._at:
                        other.go_elsewhere()
                return self._at, work
        return None

    def _stop_at(self, seat: Seat) -> None:
        """The training process of a board stops its workers."""
        for visited in list(self._visited.values()):
            if visited.seat is seat:
                self._part_from(visited)

    def _meet(self) -> None:
        """Take a place at the boards of ranks that have come since the last time."""
        if self._card.version == self._version or not self._own.may_help:
            return
        self._version = self._card.version
        for address in self._card.known():
            if address not in self._visited:
                with contextlib.suppress(OSError, SharedMemoryError):
                    self._take_place(address)

    def _take_place(self, address: Address) -> None:
        me, home = os.getpid(), self._card.address
        visited = Visited(address, self._own, [me, started(me), *home])
        self._visited[address] = visited
        self._seats.append(visited.seat)

    def _part_from(self, visited: Visited, *, is_there: bool = True) -> None:
        """Serve a board no longer."""
        address = next(at for at, one in self._visited.items() if one is visited)
        del self._visited[address]
        self._seats.remove(visited.seat)
        if self._at is visited.seat:
            self._at = None
        if is_there:
            visited.leave()
        else:
            visited.close()
        self._own.listen()

    def _own_is_there(self) -> bool:
        """Whether the own rank wants its workers; now and then who else is gone."""
        if self._own.is_over:
            return False
        now = time.monotonic()
        if now - self._looked_s < _LOOK_S:
            return True
        self._looked_s = now
        return self._notice(wait_readable(self._ends(), 0))

    def _ends(self) -> list[int]:
        """Descriptors that become readable when a training process ends."""
        others = [visited.ended for visited in self._visited.values()]
        return others if self._own.parent_alive is None else [self._own.parent_alive, *others]

    def _notice(self, readable: list[int]) -> bool:
        """Part from ranks that are gone; False if it is the own one."""
        for visited in list(self._visited.values()):
            if visited.ended in readable:
                self._part_from(visited, is_there=False)
        if self._own.parent_alive is None:
            return os.getppid() != 1
        return self._own.parent_alive not in readable

    def _sleep(self) -> bool:
        """Sleep until a bell rings; False when the own training process is gone."""
        bells = {seat.fileno(): seat for seat in self._seats}
        naps = [seat.look_again_s for seat in self._seats]
        naps.append(_LOOK_AGAIN_S if self._refuses else 5.0)
        timeout_s = min(nap for nap in naps if nap is not None)
        readable = wait_readable([*bells, *self._ends()], timeout_s)
        for descriptor in readable:
            if descriptor in bells:
                bells[descriptor].silence()
        self._looked_s = time.monotonic()
        return self._notice(readable)
