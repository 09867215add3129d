"""The workers of one loader: started, watched, replaced, stopped."""

from __future__ import annotations

import os
import time
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from pickle import PicklingError
from typing import Any

import torch

from hatchway.loader.board import Alive, Board, Head
from hatchway.loader.commons import Commons
from hatchway.loader.guests import NoGuests
from hatchway.loader.machine import TaskUsage, cpu_quota, process_memory_bytes, usages_of
from hatchway.loader.task import WorkerTask
from hatchway.loader.worker import main

# How long a worker may take to finish its sample when the loader is closed,
# before it is terminated, and then before it is killed.
GRACE_S = 2.0
_TERMINATE_S = 2.0


class Pool(ABC):
    """The workers of a loader by their ids; :meth:`close` leaves none behind.

    Args:
        task: What each worker is given; its id and commons are filled in.

    Attributes:
        guests: Workers of other ranks that work for this one.
    """

    # What one is taken to need of memory while none was measured.
    ASSUMED_BYTES: int
    # Whether their processor time is the training process's.
    ARE_WITHIN: bool

    def __init__(self, task: WorkerTask) -> None:
        self._task = task
        self._commons = task.commons
        self._workers: dict[int, Any] = {}
        self._begun: dict[int, Any] = {}
        self._later: list[int] = []
        self._most_starting = 0
        self.guests = NoGuests()

    @property
    def board(self) -> Board:
        """What the workers and the training process share."""
        return self._commons.board

    def start(self, worker_id: int) -> None:
        """Start the worker of this id, of which there is none.

        Raises:
            OSError: If the system has no room for another.
        """
        alive = self.board.alive.cells
        alive[worker_id] = Alive.STARTING
        try:
            self._workers[worker_id] = self._begun[worker_id] = self._begin(worker_id)
        except OSError:
            alive[worker_id] = Alive.GONE
            raise
        self._commons.count_workers()

    def start_all(self, count: int) -> None:
        """Start the workers with ids below ``count`` that there are not.

        Where that is not cheap, as many at a time as there are cores: the first are ready,
        and make the first batch, long before the last. :meth:`start_next` goes on.
        """
        self._later = list(range(count))
        self._most_starting = count if self.starts_fast else max(1, int(cpu_quota()))
        while self.start_next():
            pass

    def start_next(self) -> bool:
        """Start one of those that are to be started yet, if a core is free; whether one was."""
        later = self._later
        while later and later[0] in self._workers:
            del later[0]
        if not later:
            return False
        if bytes(self.board.alive.cells).count(Alive.STARTING) >= self._most_starting:
            return False
        self.start(later.pop(0))
        return True

    @abstractmethod
    def _begin(self, worker_id: int) -> Any:
        """Start it; what stands for it."""

    def retire(self, worker_id: int) -> None:
        """Ask a worker to end once it has handed over what it is at."""
        self._commons.board.alive.cells[worker_id] = Alive.LEAVING
        self._commons.worker_bells[worker_id].ring()

    def leaving(self) -> list[int]:
        """The ids of those that were asked to end, until they are forgotten."""
        alive = self._commons.board.alive.cells
        return [worker_id for worker_id in self._workers if alive[worker_id] == Alive.LEAVING]

    def is_parked(self, worker_id: int) -> bool:
        """Whether a worker sleeps for want of work, or of memory."""
        return bool(self._commons.board.parked.cells[worker_id])

    @abstractmethod
    def sentinels(self) -> list[int]:
        """Descriptors that become readable when a worker ends."""

    @abstractmethod
    def dead(self) -> list[tuple[int, int | None]]:
        """Workers that ended, as (id, exit code), until they are forgotten."""

    def forget(self, worker_id: int) -> None:
        """A dead worker's work was put back: its id is free."""
        self._bury(self._workers.pop(worker_id))
        self._commons.count_workers()

    @abstractmethod
    def _bury(self, worker: Any) -> None:
        """Let go of what one that has ended had."""

    def wake(self, count: int) -> None:
        """Wake up to ``count`` sleeping workers. Holds the lock."""
        self._commons.wake(self._workers, count)

    @property
    @abstractmethod
    def starts_fast(self) -> bool:
        """Whether starting a worker is cheap."""

    def num_computing(self) -> int:
        """How many workers run or wait for a core now; 0 where the system does not say."""
        return sum(usage.is_runnable for usage in self.usages().values())

    @abstractmethod
    def usages(self) -> dict[int, TaskUsage]:
        """What each worker takes of the cores, as far as the system says."""

    @abstractmethod
    def memory_bytes(self, worker_id: int) -> int:
        """The memory of a worker's own; 0 where the system does not say."""

    @property
    def size(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    @property
    def everyone(self) -> list[Any]:
        """The process or thread that was the latest of each id, also if it has ended."""
        return [self._begun[worker_id] for worker_id in sorted(self._begun)]

    def pid_of(self, worker_id: int) -> int | None:
        """The process that this worker is; None if that is not one of ours alone."""
        return getattr(self._workers.get(worker_id), "pid", None)

    @property
    def ids(self) -> list[int]:
        """The ids of the workers there are."""
        return list(self._workers)

    @abstractmethod
    def close(self) -> None:
        """Stop every worker and wait until it is gone."""


class ProcessPool(Pool):
    """Workers that are processes: started, watched, replaced, stopped.

    Args:
        task: As in :class:`Pool`.
        context: As ``multiprocessing_context``, or None for torch's default.
    """

    ASSUMED_BYTES = 128 << 20
    ARE_WITHIN = False

    def __init__(self, task: WorkerTask, context: Any) -> None:
        super().__init__(task)
        self._context = torch.multiprocessing if context is None else context
        self._finalizer = self._finalize_by(close_processes)

    def _finalize_by(self, close: Callable[..., None], *more: Any) -> weakref.finalize[Any, Any]:
        """Have ``close`` called at the end, however that comes."""
        return weakref.finalize(self, close, self._workers, self._task.commons, os.getpid(), *more)

    def _begin(self, worker_id: int) -> Any:
        task = self._task._replace(worker_id=worker_id, says_when_ready=not self.starts_fast)
        target, arguments = self._entry(task)
        process = self._context.Process(
            target=target,
            args=arguments,
            name=f"hatchway-worker-{worker_id}",
        )
        process.daemon = True
        launch(process)
        return process

    def _entry(self, task: WorkerTask) -> tuple[Callable[..., None], tuple[Any, ...]]:
        """What a process is to call."""
        return main, (task,)

    def sentinels(self) -> list[int]:
        """Descriptors that become readable when a process ends."""
        return [process.sentinel for process in self._workers.values()]

    def dead(self) -> list[tuple[int, int | None]]:
        """Processes that ended, as (id, exit code), until they are forgotten."""
        return [
            (worker_id, process.exitcode)
            for worker_id, process in self._workers.items()
            if not process.is_alive() or not _exists(process.pid)
        ]

    def _bury(self, worker: Any) -> None:
        worker.join(0)  # somebody may look at it yet

    @property
    def starts_fast(self) -> bool:
        """Whether they are forked."""
        return bool(self._context.get_start_method() == "fork")

    def usages(self) -> dict[int, TaskUsage]:
        """What each process takes of the cores, as far as the system says."""
        return usages_of({i: f"{process.pid}" for i, process in self._workers.items()})

    def memory_bytes(self, worker_id: int) -> int:
        """The memory of a process's own; 0 where the system does not say."""
        return process_memory_bytes(self._workers[worker_id].pid)

    def close(self) -> None:
        """Stop every process and wait until it is gone."""
        self._finalizer()


def launch(process: Any) -> None:
    """Start a process that is given the user's objects."""
    try:
        process.start()
    except (TypeError, AttributeError, PicklingError):
        warnings.warn(
            "The dataset, collate_fn or worker_init_fn cannot be pickled, which the start "
            "method 'spawn' or 'forkserver' (the default from Python 3.14 on) needs. Define "
            "them at the top level of a module, or pass multiprocessing_context='fork'.",
            stacklevel=2,
        )
        raise
    except EOFError as error:  # the fork server could not fork
        raise OSError("the fork server has no room for another process") from error


def end_processes(processes: dict[int, Any]) -> None:
    """Wait until processes that were told to stop are gone, and see to it that they are."""
    _join(processes, GRACE_S)
    for process in list(processes.values()):
        process.terminate()
    _join(processes, _TERMINATE_S)
    for process in list(processes.values()):
        process.kill()
    _join(processes, None)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is there, and another user's
    return True


def close_processes(processes: dict[int, Any], commons: Commons, pid: int) -> None:
    """Stop worker processes and wait until they are gone; close what they had in common."""
    if os.getpid() != pid:
        return  # a forked child of the training process owns no workers
    commons.board.head[Head.STOP] = 1
    for worker_id in list(processes):
        commons.worker_bells[worker_id].ring()
    end_processes(processes)
    commons.close()


def _join(processes: dict[int, Any], timeout_s: float | None) -> None:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    for worker_id, process in list(processes.items()):
        process.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if process.exitcode is not None:
            del processes[worker_id]  # its descriptor goes with the last who looks at it
