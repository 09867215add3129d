"""The whole loader in one process: real workers, plan and rescue, chosen interleavings.

Each worker is a thread that runs only while it is stepped, from one place
where processes meet (the lock, a sample, a collate, a sleep) to the next. It can
be killed at any of them, or before any line of the loader's code. Blocks are
poisoned when they are freed, and time stands still until it is moved.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import Any
from unittest import mock

import hatchway.loader
from hatchway.loader import lease, native, rescue, worker
from hatchway.loader.board import Board, BoardShape
from hatchway.loader.commons import Commons, CommonsConfig, Visit
from hatchway.loader.delivery import Delivery
from hatchway.loader.guests import NoGuests
from hatchway.loader.kernel import board_kernel
from hatchway.loader.pool import Pool
from hatchway.loader.rules import DeliveryRules
from hatchway.loader.schedule import Schedule
from hatchway.loader.task import WorkerTask
from hatchway.loader.worker import Worker
from tests.property.twins import Twins
from tests.property.watched import Memory, WatchedHeap

SOURCES = os.path.dirname(hatchway.loader.__file__) + os.sep


class Death(BaseException):
    """The process is gone: nothing in it runs any more."""


class Actor:
    """A worker process, as a thread that holds still between two steps."""

    def __init__(self, body: Callable[[Actor], None]) -> None:
        self.state = "born"
        self.error: BaseException | None = None
        self.places: list[str] = []
        self.died_at = ""
        self.bells: list[SimulatedBell] = []  # any of them wakes it
        self._lines_left = -1
        self._traced = self._notes_places = False
        self._doomed = False
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._live, args=(body,), daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self.state not in ("dead", "ended")

    def step(self) -> None:
        """Run to the next place where processes meet."""
        self._go.release()
        self._back.acquire()
        if self.error is not None:
            raise self.error

    def kill(self) -> None:
        """Kill it where it stands."""
        self._doomed = True
        self.step()

    def kill_before_line(self, lines: int) -> None:
        """Kill it before so many more lines of the loader have run."""
        self._lines_left = lines
        self._traced = True

    def note_lines(self) -> None:
        """Note the loader's lines that it runs, in ``places``."""
        self._traced = self._notes_places = True

    def pause(self, state: str) -> None:
        """Called in the actor: let the others go on."""
        self.state = state
        self._back.release()
        self._go.acquire()
        if self._doomed:
            raise Death
        self.state = "running"
        if self._traced and sys.gettrace() is None:
            self._trace_from_here()

    def _live(self, body: Callable[[Actor], None]) -> None:
        self._go.acquire()
        try:
            if not self._doomed:
                if self._traced:
                    self._trace_from_here()
                body(self)
            self.state = "ended"
        except Death:
            self.state = "dead"
        except BaseException as error:
            self.state, self.error = "dead", error
        finally:
            sys.settrace(None)
            self._back.release()

    def _trace_from_here(self) -> None:
        sys.settrace(self._trace)
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_code.co_filename.startswith(SOURCES):
                frame.f_trace = self._trace_line
            frame = frame.f_back

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename.startswith(SOURCES) and not _is_called_by_a_lease(frame):
            return self._trace_line
        return None

    def _trace_line(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            if self._notes_places:
                self.places.append(_place_of(frame))
            if self._lines_left == 0:
                self.died_at = _place_of(frame)
                raise Death
            self._lines_left -= 1
        return self._trace_line


def _place_of(frame: FrameType) -> str:
    code = frame.f_code
    return f"{os.path.basename(code.co_filename)}:{frame.f_lineno} in {code.co_name}"


def _is_called_by_a_lease(frame: FrameType) -> bool:
    """Whether the garbage collector runs this, in which nothing can be raised."""
    caller: FrameType | None = frame
    while caller is not None and caller.f_code.co_filename.startswith(SOURCES):
        if caller.f_code.co_filename == lease.__file__:
            return True
        caller = caller.f_back
    return False


class Gate:
    """Stands for the lock: a step ends before it is taken, and when it is let go."""

    def __init__(self, current: Callable[[], Actor | None]) -> None:
        self._current = current
        self.holder: Actor | None = None
        self.held = False

    def __enter__(self) -> None:
        actor = self._current()
        if actor is not None:
            actor.pause("lock")
        assert not self.held, "two processes hold the lock"
        self.held, self.holder = True, actor

    def __exit__(self, *_: object) -> None:
        self.held, self.holder = False, None
        actor = self._current()
        if actor is not None and sys.exc_info()[0] is not Death:
            actor.pause("unlocked")

    def close(self) -> None:
        """Nothing to close."""


class SimulatedVisit(Visit):
    """A visit that ends at its visitor's death without another line run."""

    def __exit__(self, error_type: object, *error: object) -> None:
        if error_type is Death:
            self._commons._lock.__exit__()
        else:
            super().__exit__(error_type, *error)


class SimulatedBell:
    """Stands for a Bell."""

    def __init__(self) -> None:
        self.rung = False

    def ring(self) -> None:
        self.rung = True

    def silence(self) -> None:
        self.rung = False

    def close(self) -> None:
        """Nothing to close."""


class SimulatedWorker(Worker):
    """A worker that sleeps without a system call."""

    actor: Actor

    def _sleep(self) -> bool:
        timer = self._admission.look_again_s is not None
        self.actor.pause("dozing" if timer else "asleep")
        self._bell.silence()
        self._board.parked.cells[self._id] = 0
        return True


def _make_worker(task: WorkerTask, actor: Actor) -> SimulatedWorker:
    one = SimulatedWorker(task)
    one.actor = actor
    return one


class SimulatedPool:
    """Stands for the pool: starts, finds and wakes actors."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._commons = crew.commons
        self._workers = crew.actors

    start: Any
    guests = NoGuests()
    wake = Pool.wake
    retire = Pool.retire
    leaving = Pool.leaving

    def dead(self) -> list[tuple[int, int | None]]:
        return [(i, -9) for i, actor in self._workers.items() if not actor.alive]

    def pid_of(self, worker_id: int) -> None:
        """No process of its own."""

    def forget(self, worker_id: int) -> None:
        del self._workers[worker_id]

    @property
    def size(self) -> int:
        return len(self._workers)

    @property
    def ids(self) -> list[int]:
        return list(self._workers)


class Crew:
    """The commons and the workers of a simulated loader."""

    def __init__(
        self,
        shape: BoardShape,
        rules: DeliveryRules,
        *,
        budget_bytes: int,
        load: Callable[[Any], Any],
        collate: Callable[[Any], Any],
        rows: bool,
        pure: bool,
    ) -> None:
        # The native loop looks at the real clock.
        self.now_s = time.monotonic()
        self.actors: dict[int, Actor] = {}
        self.make_worker: Callable[[WorkerTask, Actor], Any] = _make_worker
        self.newborn: Callable[[int, Actor], None] = lambda worker_id, actor: None
        self.by_thread: dict[int, Actor] = {}
        self.gate = Gate(self.current)
        config = CommonsConfig(shape, rules, budget_bytes)
        memory = Memory(8 * budget_bytes)
        self.commons: Any = object.__new__(Commons)
        self.bells = [SimulatedBell() for _ in range(shape.workers)]
        self.commons._open(
            config,
            Memory(Board.buffer_bytes(shape)),
            memory,
            self.gate,
            SimulatedBell(),
            self.bells,
        )
        self.heap = WatchedHeap(
            self.commons.board,
            budget_bytes=budget_bytes,
            address_bytes=memory.nbytes,
            give_back=memory.give_back,
        )
        self.heap.faults, self.heap.memory = [], memory
        self.commons.heap = self.heap
        self.commons.locked = lambda who: SimulatedVisit(self.commons, who)
        self.commons.schedule = Schedule(
            self.commons.board, self.heap, None if rules.fixed else rules.batch_size
        )
        self.commons.kernel = None
        if not pure and native.MODULE is not None:
            kernel = board_kernel(self.commons.board, rules)
            self.commons.kernel = Twins(kernel, self.commons._parts[1].memory, self.commons, rules)
        self.commons.delivery = Delivery(self.commons.board, self.heap, rules, self.commons.kernel)
        self._load, self._collate = load, collate
        self._task = WorkerTask(
            commons=self.commons,
            dataset=self,
            collate_fn=self.collate,
            worker_init_fn=None,
            worker_id=-1,
            num_workers=shape.workers,
            base_seed=1,
            auto_collation=True,
            rows=rows,
            per_position_seeds=False,
            fetches_batches=False,
        )
        self.pool = SimulatedPool(self)
        self.pool.start = self.start
        clock = SimpleNamespace(monotonic=lambda: self.now_s)
        self._patches = [mock.patch.object(module, "time", clock) for module in (rescue, worker)]
        if pure:
            self._patches.append(mock.patch.object(native, "MODULE", None))
        for patch in self._patches:
            patch.start()

    def current(self) -> Actor | None:
        return self.by_thread.get(threading.get_ident())

    def __getitem__(self, key: Any) -> Any:
        actor = self.current()
        if actor is not None:
            actor.pause("sample")
        return self._load(key)

    def collate(self, samples: Any) -> Any:
        actor = self.current()
        if actor is not None:
            actor.pause("collate")
        return self._collate(samples)

    def start(self, worker_id: int) -> None:
        """Start a worker under this id."""
        board = self.commons.board

        def body(actor: Actor) -> None:
            self.by_thread[threading.get_ident()] = actor
            try:
                self.make_worker(self._task._replace(worker_id=worker_id), actor).run()
            finally:
                del self.by_thread[threading.get_ident()]

        actor = self.actors[worker_id] = Actor(body)
        actor.bells = [self.bells[worker_id]]
        self.newborn(worker_id, actor)
        board.alive.cells[worker_id] = 1
        board.head[worker.Head.NUM_PROCESSES] = len(self.actors)

    def can_step(self, worker_id: int) -> bool:
        """Whether this worker does anything before time moves on."""
        actor = self.actors[worker_id]
        if not actor.alive:
            return False
        is_rung = any(bell.rung for bell in actor.bells)
        return actor.state not in ("asleep", "dozing") or is_rung

    def step(self, worker_id: int) -> None:
        """Let this worker run on; the kernel frees the lock of one that dies."""
        actor = self.actors[worker_id]
        actor.step()
        self.free_lock(actor)

    def kill(self, worker_id: int) -> None:
        """Kill this worker where it stands."""
        self.actors[worker_id].kill()

    def wait(self, seconds: float) -> list[int]:
        """Move time; the workers whose nap is over."""
        self.now_s += seconds
        return [i for i, actor in self.actors.items() if actor.alive and actor.state == "dozing"]

    def close(self) -> None:
        """End every thread."""
        for actor in self.actors.values():
            if actor.alive:
                actor.kill()
        for patch in self._patches:
            patch.stop()

    def free_lock(self, actor: Actor) -> None:
        """The kernel frees the lock of an actor that died."""
        if not actor.alive and self.gate.holder is actor:
            self.gate.__exit__()
