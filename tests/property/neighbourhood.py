"""Simulated loaders of several ranks whose workers serve all of them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from hatchway.loader import starving
from hatchway.loader.board import Head
from hatchway.loader.card import Address, Guest
from hatchway.loader.guests import NoGuests
from hatchway.loader.schedule import Claim
from hatchway.loader.seat import GuestSeat, Seat, take_seat
from hatchway.loader.shared_worker import SharedWorker
from hatchway.loader.task import WorkerTask
from tests.property.epochs import Epochs
from tests.property.setting import Setting
from tests.property.simulation import Actor


class SimulatedSeat(Seat):
    """A place at the own board; for memory it is waited without a system call."""

    actor: Actor

    def _sleep(self) -> bool:
        self.actor.pause("asleep")
        self._bell.silence()
        self._board.parked.cells[self._id] = 0
        return True


class SimulatedVisited:
    """Stands for Visited."""

    ended = -1

    def __init__(self, rank: SharedEpochs, seat: GuestSeat) -> None:
        self.rank, self.seat = rank, seat

    def leave(self) -> None:
        self.seat.leave(self.rank.card, self.rank.first_guest)  # type: ignore[arg-type]

    def close(self) -> None:
        """The garbage collector does it."""


class SimulatedSharedWorker(SharedWorker):
    """A worker that finds its neighbours without ``/proc``."""

    def __init__(self, own: Seat, actor: Actor, home: SharedEpochs) -> None:
        super().__init__(own, None)  # type: ignore[arg-type]
        self._actor, self._home = actor, home

    def _meet(self) -> None:
        for number, rank in enumerate(self._home.ranks):
            address = Address(number, 0, 0, 1)
            if rank is self._home or address in self._visited or rank.is_gone:
                continue
            note = [self._home.number_of(self._actor), 0, 0, 0, 0, 0]
            worker_id = take_seat(rank.commons, rank.card, rank.first_guest, note)  # type: ignore[arg-type]
            if worker_id >= 0:
                seat = GuestSeat(self._own, rank.commons, worker_id)
                self._actor.bells.append(rank.crew.bells[worker_id])
                self._visited[address] = SimulatedVisited(rank, seat)  # type: ignore[assignment]
                self._seats.append(seat)

    def _find_work(self) -> tuple[Seat, Claim | int] | None:
        found = super()._find_work()
        if found is not None and isinstance(found[0], GuestSeat):
            self._home.num_helped += 1
        return found

    def _own_is_there(self) -> bool:
        for visited in list(self._visited.values()):
            if visited.rank.is_dead:  # type: ignore[attr-defined]
                self._part_from(visited, is_there=False)
        return not (self._home.is_dead or self._own.is_over)

    def _sleep(self) -> bool:
        naps = [seat.look_again_s for seat in self._seats]
        has_timer = self._refuses or any(nap is not None for nap in naps)
        self._actor.pause("dozing" if has_timer else "asleep")
        for bell in self._actor.bells:
            bell.silence()
        return True


class SimulatedGuests(NoGuests):
    """Knows by the actors who is gone."""

    def __init__(self, rank: SharedEpochs) -> None:
        self._rank = rank

    def gone(self) -> list[tuple[int, bool]]:
        return [
            (self._rank.first_guest + row, True)
            for row, number in enumerate(self._rank.card.guests[:, Guest.PID].tolist())
            if number and not self._rank.everyone[number].alive
        ]

    def forget(self, worker_id: int) -> None:
        self._rank.card.guests[worker_id - self._rank.first_guest, Guest.PID] = 0


class SharedEpochs(Epochs):
    """One rank's loader among others'."""

    def __init__(self, setting: Setting) -> None:
        num_guests = setting.num_guests
        self.first_guest = setting.num_workers
        self.card = SimpleNamespace(guests=np.zeros((num_guests, Guest.COUNT), np.int64))
        self.ranks: list[SharedEpochs] = []
        self.everyone: dict[int, Actor] = {}
        self.is_dead = self.is_closed = False
        self.num_helped = 0
        super().__init__(setting)
        self.crew.make_worker = self._make_worker
        # Simulated samples take no time, and are worth a visit.
        self._patch = mock.patch.object(starving, "LEAST_SAMPLE_S", 0.0)
        self._patch.start()
        pool: Any = self.crew.pool
        pool.guests = SimulatedGuests(self)
        ids = range(self.first_guest, self.first_guest + num_guests)
        pool.wake = lambda count: self.commons.wake(itertools.chain(self.crew.actors, ids), count)

    @property
    def is_gone(self) -> bool:
        return self.is_dead or self.is_closed

    @property
    def is_done(self) -> bool:
        return self.finished or self.is_gone

    def close(self) -> None:
        self._patch.stop()
        super().close()

    def number_of(self, actor: Actor) -> int:
        """A number that stands for an actor, as a process id does."""
        number = id(actor)
        self.everyone[number] = actor
        return number

    def _make_worker(self, task: WorkerTask, actor: Actor) -> SimulatedSharedWorker:
        seat = SimulatedSeat(task)
        seat.actor = actor
        return SimulatedSharedWorker(seat, actor, self)

    def _idle_until(self, done: Any) -> None:
        for _ in range(1000):
            if done() or any(
                not one.alive for rank in self.ranks for one in rank.crew.actors.values()
            ):
                return
            able = able_of(self.ranks)
            if not able:
                return
            step(self.ranks, *able[0])
        raise AssertionError(f"the workers never rest: {self.describe()}")

    def end(self, *, dies: bool) -> None:
        """The training process is gone, or stops its workers."""
        self.is_dead, self.is_closed = dies, not dies
        self.board.head[Head.STOP] = int(not dies)
        # Those who sleep notice: by a descriptor of the process, or by their bells.
        for bell in self.crew.bells:
            bell.ring()


def neighbourhood(setting: Setting, num_ranks: int) -> list[SharedEpochs]:
    """Ranks that share their workers."""
    setting = replace(setting, num_guests=(num_ranks - 1) * setting.num_workers)
    ranks = [SharedEpochs(setting) for _ in range(num_ranks)]
    for rank in ranks:
        rank.ranks = ranks
        rank.everyone = ranks[0].everyone
        rank.crew.by_thread = ranks[0].crew.by_thread
    return ranks


def able_of(ranks: list[SharedEpochs]) -> list[tuple[SharedEpochs, int]]:
    """Every worker that does anything before time moves on."""
    return [(rank, i) for rank in ranks for i in rank.crew.actors if rank.crew.can_step(i)]


def step(ranks: list[SharedEpochs], rank: SharedEpochs, worker_id: int) -> None:
    """Let a worker run on; the kernel frees the locks of one that dies."""
    actor = rank.crew.actors[worker_id]
    rank.crew.step(worker_id)
    for other in ranks:
        other.crew.free_lock(actor)
