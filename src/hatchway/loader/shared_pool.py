"""Worker processes that also work for other ranks, and those of other ranks that come here."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

from hatchway.loader import shared_worker
from hatchway.loader.board import Head
from hatchway.loader.commons import Commons
from hatchway.loader.guests import Guests
from hatchway.loader.pool import ProcessPool, close_processes
from hatchway.loader.sharing import Sharing
from hatchway.loader.task import WorkerTask


class SharedPool(ProcessPool):
    """A rank's own workers; those of other ranks, its guests, are watched and woken only.

    Args:
        task: As in :class:`ProcessPool`.
        context: As in :class:`ProcessPool`.
        sharing: How the ranks find each other.
    """

    def __init__(self, task: WorkerTask, context: Any, sharing: Sharing) -> None:
        super().__init__(task, context)
        self._sharing = sharing
        self.guests: Guests = sharing.open(task.commons)
        self._finalizer.detach()
        self._finalizer = self._finalize_by(_close, sharing, self.guests)

    def _entry(self, task: WorkerTask) -> tuple[Callable[..., None], tuple[Any, ...]]:
        return shared_worker.main, (task, self._sharing.card)

    def sentinels(self) -> list[int]:
        """Descriptors that become readable when a process ends, a guest included."""
        return [*super().sentinels(), *self.guests.sentinels()]

    def wake(self, count: int) -> None:
        """Wake up to ``count`` sleeping workers, the own ones first. Holds the lock."""
        self._commons.wake(itertools.chain(self._workers, self.guests.ids), count)


def _close(
    processes: dict[int, Any], commons: Commons, pid: int, sharing: Sharing, guests: Guests
) -> None:
    if os.getpid() != pid:
        return
    try:
        sharing.say_closing()
        commons.board.head[Head.STOP] = 1
        guests.ring()
        close_processes(processes, commons, pid)
    finally:
        guests.close()
        sharing.close()
