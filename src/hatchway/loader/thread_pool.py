"""Workers that are threads of the training process (``worker_type="thread"``)."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable

import torch

from hatchway.loader.board import Head
from hatchway.loader.commons import Commons
from hatchway.loader.context import tell_key
from hatchway.loader.machine import TaskUsage, usages_of
from hatchway.loader.pool import GRACE_S, Pool
from hatchway.loader.shared import Bell, wait_readable
from hatchway.loader.task import WorkerTask
from hatchway.loader.worker import Worker


class ThreadPool(Pool):
    """Workers that are threads.

    A thread cannot be stopped: :meth:`close` waits for its sample for a while, then leaves
    it to end by itself, with whatever it needs for that.
    """

    ASSUMED_BYTES = 16 << 20
    ARE_WITHIN = True
    starts_fast = True

    def __init__(self, task: WorkerTask) -> None:
        super().__init__(task)
        self._last = _Last(task.commons.close, num_users=1)
        self._finalizer = weakref.finalize(
            self, _close, self._workers, task.commons, self._last, os.getpid()
        )

    def _begin(self, worker_id: int) -> _Thread:
        task = self._task._replace(worker_id=worker_id, commons=self._task.commons.again())
        return _Thread(task, self._last)

    def sentinels(self) -> list[int]:
        """Descriptors that become readable when a thread ends."""
        return [thread.ended.fileno() for thread in self._workers.values()]

    def dead(self) -> list[tuple[int, int | None]]:
        """Threads that ended, as (id, exit code), until they are forgotten."""
        return [(i, thread.exit_code) for i, thread in self._workers.items() if thread.is_over()]

    def _bury(self, worker: _Thread) -> None:
        worker.thread.join()
        worker.let_go()

    @property
    def everyone(self) -> list[threading.Thread]:
        """The thread that was the latest of each id, also if it has ended."""
        return [worker.thread for worker in super().everyone]

    def usages(self) -> dict[int, TaskUsage]:
        """What each thread takes of the cores, as far as the system says."""
        return usages_of(
            {i: f"self/task/{thread.thread.native_id}" for i, thread in self._workers.items()}
        )

    def memory_bytes(self, worker_id: int) -> int:
        """Not known of a thread: 0."""
        return 0

    def close(self) -> None:
        """Stop every thread that comes to the end of its sample in time."""
        self._finalizer()


class _Last:
    """Closes what several use once the last of them is done with it."""

    def __init__(self, close: Callable[[], None], num_users: int) -> None:
        self._close = close
        self._lock = threading.Lock()
        self._num_users = num_users

    def join(self) -> None:
        """Another one uses it."""
        with self._lock:
            self._num_users += 1

    def leave(self) -> None:
        """One is done."""
        with self._lock:
            self._num_users -= 1
            is_last = self._num_users == 0
        if is_last:
            self._close()


class _Thread:
    """One worker thread, and how it ended."""

    def __init__(self, task: WorkerTask, last: _Last) -> None:
        self.exit_code = 0
        self.ended = Bell()
        self._last_of_bell = _Last(self.ended.close, num_users=2)
        self._task = task
        self._last = last
        self._is_over = threading.Event()
        self._has_begun = threading.Event()
        self.thread = threading.Thread(
            target=self._live, name=f"hatchway-{task.worker_id}", daemon=True
        )
        num_threads = torch.get_num_threads()
        last.join()
        try:
            self.thread.start()
        except RuntimeError as error:
            last.leave()
            self.ended.close()
            raise OSError(f"no room for another worker thread: {error}") from error
        self._has_begun.wait()
        # What a thread sets for itself becomes the default of threads that come later.
        torch.set_num_threads(num_threads)

    def is_over(self) -> bool:
        """Whether it runs nothing of the loader's any more."""
        return self._is_over.is_set()

    def let_go(self) -> None:
        """The pool looks at it no longer."""
        self._last_of_bell.leave()

    def _live(self) -> None:
        try:
            torch.set_num_threads(1)
            self._has_begun.set()
            worker = _ThreadWorker(self._task)
            try:
                worker.run()
            finally:
                worker.forget()
        except BaseException:
            self.exit_code = 1
            traceback.print_exc(file=sys.stderr)
        finally:
            self._is_over.set()
            self.ended.ring()
            self._last_of_bell.leave()
            self._last.leave()


class _ThreadWorker(Worker):
    """A worker whose training process cannot be gone while it runs."""

    def _watch_parent(self) -> None:
        self._parent_alive = None

    def _may_leave(self) -> bool:
        """Not while the user's collate function keeps samples: their blocks are this worker's."""
        return not self._store.has_lent

    def forget(self) -> None:
        """Hold nothing any more: its parts refer to it, and they hold the loader's memory."""
        tell_key(None)
        vars(self).clear()

    def _sleep(self) -> bool:
        """Sleep until the bell rings."""
        wait_readable([self._bell.fileno()], self._admission.look_again_s)
        self._bell.silence()
        self._board.parked.cells[self._id] = 0
        return True


def _close(workers: dict[int, _Thread], commons: Commons, last: _Last, pid: int) -> None:
    if os.getpid() != pid:
        return  # a forked child has no threads
    commons.let_go_of_lock()  # an interrupt may have come while it was held
    commons.board.head[Head.STOP] = 1
    for worker_id in list(workers):
        commons.worker_bells[worker_id].ring()
    deadline = time.monotonic() + GRACE_S
    try:
        for one in list(workers.values()):
            if one.thread is not threading.current_thread():
                one.thread.join(max(0.0, deadline - time.monotonic()))
            one.let_go()
    finally:
        workers.clear()
        last.leave()
