"""Workers of other ranks that work for this one, seen from its training process."""

from __future__ import annotations

import os

from hatchway.loader.card import Address, Card, Guest, is_there
from hatchway.loader.commons import Commons
from hatchway.loader.distant import started, watch
from hatchway.loader.shared import wait_readable


class NoGuests:
    """No other rank's workers work for this one."""

    def gone(self) -> list[tuple[int, bool]]:
        """Those that ended without leaving, until they are forgotten.

        As (id, whether what it was at may be to blame).
        """
        return []

    def forget(self, worker_id: int) -> None:
        """What one that ended had taken was put back: its id is free."""

    def present(self) -> list[int]:
        """The ids of those that there are now."""
        return []


class Guests(NoGuests):
    """The workers of other ranks that work for this one, as far as they were noticed.

    Args:
        card: Where they note who they are.
        commons: The board that they work on.
        first_id: From which on ids are theirs.
    """

    def __init__(self, card: Card, commons: Commons, first_id: int) -> None:
        self._card = card
        self._commons = commons
        self.ids = range(first_id, first_id + len(card.guests))
        self._seen = b""
        # A guest's number and start, and a descriptor that becomes readable when it ends.
        self._watched: dict[int, tuple[int, int, int]] = {}

    def sentinels(self) -> list[int]:
        """Descriptors that become readable when one of them ends."""
        self._look()
        return [watched[2] for watched in self._watched.values() if watched[2] >= 0]

    def gone(self) -> list[tuple[int, bool]]:
        """Those that ended without leaving; see :class:`NoGuests`."""
        self._look()
        quiet = {one[2] for one in self._watched.values() if one[2] >= 0}
        quiet -= set(wait_readable(list(quiet), 0))
        return [
            (worker_id, self._may_blame(worker_id))
            for worker_id, watched in self._watched.items()
            if watched[2] not in quiet
        ]

    def forget(self, worker_id: int) -> None:
        """What one that ended had taken was put back: its id is free."""
        self._drop(worker_id)
        self._card.guests[worker_id - self.ids.start, Guest.PID] = 0
        self._commons.count_workers()

    def present(self) -> list[int]:
        """The ids of those that there are now."""
        alive = self._commons.board.alive.cells
        return [worker_id for worker_id in self.ids if alive[worker_id]]

    def ring(self) -> None:
        """Have all of them look at the board."""
        for worker_id in self.present():
            self._commons.worker_bells[worker_id].ring()

    def close(self) -> None:
        """Watch nobody any more."""
        for worker_id in list(self._watched):
            self._drop(worker_id)

    def _look(self) -> None:
        """Notice who has come and who has left."""
        notes = self._card.guests[:, : Guest.HOME]
        now = notes.tobytes()
        if now == self._seen:
            return
        has_seen_all = True
        for worker_id, (pid, start) in zip(self.ids, notes.tolist(), strict=True):
            watched = self._watched.get(worker_id)
            if watched is not None and watched[:2] != (pid, start):
                self._drop(worker_id)
                watched = None
            if pid and watched is None:
                try:
                    self._watched[worker_id] = (pid, start, _watched(pid, start))
                except OSError:  # no descriptor is left: it is not gone for that
                    has_seen_all = False
        self._seen = now if has_seen_all else b""

    def _drop(self, worker_id: int) -> None:
        descriptor = self._watched.pop(worker_id)[2]
        if descriptor >= 0:
            os.close(descriptor)

    def _may_blame(self, worker_id: int) -> bool:
        """Whether a guest died although its own rank wanted no end of it."""
        home = self._card.guests[worker_id - self.ids.start, Guest.HOME :]
        return is_there(Address(*home.tolist()))


def _watched(pid: int, start: int) -> int:
    """A descriptor that becomes readable when a process ends; -1 if it has ended.

    Raises:
        OSError: If that cannot be told now.
    """
    try:
        descriptor = watch(pid)
    except ProcessLookupError:
        return -1
    is_that = False
    try:
        is_that = started(pid) == start
    finally:
        if not is_that:
            os.close(descriptor)
    return descriptor if is_that else -1
