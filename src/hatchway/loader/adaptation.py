"""Has the workers of a loader follow its load: watches, decides, starts some, lets some go.

Pure but for the crew, which the simulator has one of its own of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from hatchway.loader.board import Alive, Board, Head, Status
from hatchway.loader.foresight import Foresight
from hatchway.loader.plan import Plan
from hatchway.loader.worker_count import Observation, WorkerCount

# Between two decisions there pass this many seconds, or more until so many samples are done.
PERIOD_S = 0.5
_LONGEST_PERIOD_S = 2.0
_ENOUGH_SAMPLES = 8


class Usage(NamedTuple):
    """What a crew takes of the machine.

    Attributes:
        cpu_s: Processor seconds of its workers so far, of those that are gone, too; 0
            where the system does not say.
        main_cpu_s: Processor seconds of the training process so far.
        num_runnable: Workers that run or wait for a core now.
        num_cores: Cores' worth of time that all of them can get.
        most: Called for how many workers there is memory.
    """

    cpu_s: float
    main_cpu_s: float
    num_runnable: int
    num_cores: float
    most: Callable[[], int]


class Crew(Protocol):
    """The workers of one loader, as far as their number goes."""

    def size(self) -> int:
        """How many there are, without those that were asked to leave."""

    def start_one(self) -> bool:
        """Start another one; whether that was possible."""

    def let_go(self, count: int) -> None:
        """Ask so many to leave once they have handed over what they are at."""

    def usage(self) -> Usage:
        """What they take of the machine."""


class Adaptation:
    """Decides twice a second how many workers there should be, and sees to it.

    Args:
        board: The loader's.
        plan: Its lookahead grows with the workers.
        foresight: Predicts by how many workers there are.
        crew: The workers.
        count: Decides; it outlives a pass, and so what it learned.
        window_batches: How many batches may be ahead with so many workers.
    """

    def __init__(
        self,
        board: Board,
        plan: Plan,
        foresight: Foresight,
        crew: Crew,
        count: WorkerCount,
        window_batches: Callable[[int], int],
    ) -> None:
        self._board = board
        self._plan = plan
        self._foresight = foresight
        self._crew = crew
        self._count = count
        self._window_batches = window_batches
        self._busy_s = 0.0
        self._since_s = self._starved_s = 0.0
        self._num_finished = 0
        self._usage = crew.usage()
        self._has_begun = False
        self.next_s = 0.0
        self._apply()

    def begin(self, now_s: float, starved_s: float) -> None:
        """A pass begins; until its first batch the loop waits however many workers there are.

        Args:
            now_s: The monotonic time, in seconds.
            starved_s: How long the training loop has slept so far, for want of a batch.
        """
        self._has_begun = False
        self._start_period(now_s, starved_s)

    @property
    def reason(self) -> str:
        """Why there are not more workers, or not fewer."""
        return self._count.reason

    def delivered(self, busy_s: float) -> None:
        """The loop took a batch at whose samples workers were for so many seconds."""
        self._busy_s += busy_s

    def look(self, now_s: float, starved_s: float) -> None:
        """Decide, if it is time to.

        Args:
            now_s: The monotonic time, in seconds.
            starved_s: How long the training loop has slept so far, for want of a batch.
        """
        if not self._has_begun and self._busy_s:
            self._has_begun = True
            self._start_period(now_s, starved_s)
        if now_s < self.next_s:
            return
        if Alive.STARTING in bytes(self._board.alive.cells):
            # Spawned ones take seconds, and compute: until then nothing can be judged.
            self._start_period(now_s, starved_s)
            return
        seconds, num_finished = now_s - self._since_s, self._finished()
        num_samples = num_finished - self._num_finished
        if num_samples < _ENOUGH_SAMPLES and seconds < _LONGEST_PERIOD_S and self._has_begun:
            self.next_s = now_s + PERIOD_S / 2
            return
        before, usage = self._usage, self._crew.usage()
        main_cores = (usage.main_cpu_s - before.main_cpu_s) / seconds
        seen = Observation(
            seconds=seconds,
            starved_s=starved_s - self._starved_s,
            num_samples=num_samples,
            busy_s=self._busy_s,
            cpu_s=usage.cpu_s - before.cpu_s,
            num_runnable=usage.num_runnable,
            num_cores=max(0.0, usage.num_cores - main_cores),
            most=usage.most,
        )
        self._count.decide(seen, self._crew.size())
        self._apply()
        self._start_period(now_s, starved_s, usage)

    def grow(self) -> bool:
        """Start one worker if one is missing; whether one was started.

        While the training loop waits anyway: starting a process takes it some time.
        """
        return self._crew.size() < self._count.count and self._crew.start_one()

    def _start_period(self, now_s: float, starved_s: float, usage: Usage | None = None) -> None:
        self._since_s, self._starved_s = now_s, starved_s
        self._num_finished, self._busy_s = self._finished(), 0.0
        self._usage = self._crew.usage() if usage is None else usage
        self.next_s = now_s + PERIOD_S

    def _apply(self) -> None:
        count = self._count.count
        self._board.head[Head.NUM_SEATS] = count
        self._foresight.num_workers = count
        self._plan.window = self._window_batches(count)
        surplus = self._crew.size() - count
        if surplus > 0:
            self._crew.let_go(surplus)

    def _finished(self) -> int:
        """Samples that were finished so far, delivered or not."""
        board, head = self._board, self._board.head
        over = (Status.DONE, Status.FAILED, Status.TAKEN, Status.CONSUMED)
        tail = head[Head.TAIL]
        return int(tail + board.count(board.status, tail, head[Head.PUBLISHED], *over))
