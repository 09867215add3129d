"""Simulated time: what happens when, and how samples that compute share the cores."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

Act = Callable[[], None]


@dataclass(order=True)
class Event:
    """Something that happens at a time, in the order in which it was planned."""

    time_s: float
    number: int
    act: Act | None = field(compare=False)

    def cancel(self) -> None:
        """It will not happen."""
        self.act = None


class Timeline:
    """A clock that jumps from one event to the next.

    Attributes:
        now_s: Seconds since the beginning.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[Event] = []
        self._numbers = itertools.count()

    def at(self, time_s: float, act: Act) -> Event:
        """Plan that ``act`` is called at ``time_s``, or now if that is past."""
        event = Event(max(time_s, self.now_s), next(self._numbers), act)
        heapq.heappush(self._events, event)
        return event

    def after(self, seconds: float, act: Act) -> Event:
        """Plan that ``act`` is called so much later."""
        return self.at(self.now_s + seconds, act)

    def run(self) -> None:
        """Let everything happen, until nothing is planned any more."""
        while self._events:
            event = heapq.heappop(self._events)
            if event.act is not None:
                self.now_s = event.time_s
                event.act()


class Cores:
    """Cores that all running samples share evenly.

    Args:
        timeline: The clock.
        num_cores: How many samples run at full speed at once; None where samples
            wait, so that any number does.
    """

    def __init__(self, timeline: Timeline, num_cores: float | None) -> None:
        self.num_cores = num_cores
        self._timeline = timeline
        # What each running sample has had since the beginning, in seconds of a core;
        # a sample is done when that has grown by what it takes.
        self._served_s = 0.0
        self._used_s = 0.0
        self._looked_s = 0.0
        self._running: list[Event] = []
        self._numbers = itertools.count()
        self._next: Event | None = None

    def run(self, seconds: float, done: Act) -> None:
        """Call ``done`` once ``seconds`` of work are done."""
        if self.num_cores is None:
            self._timeline.after(seconds, done)
            return
        self._serve()
        heapq.heappush(self._running, Event(self._served_s + seconds, next(self._numbers), done))
        self._plan()

    @property
    def used_s(self) -> float:
        """Seconds of a core that samples have had so far; 0 where they wait."""
        self._serve()
        return self._used_s

    @property
    def num_running(self) -> int:
        """How many samples run or wait for a core; 0 where they wait for something else."""
        return len(self._running)

    def _speed(self) -> float:
        if self.num_cores is None or not self._running:
            return 1.0
        return min(1.0, self.num_cores / len(self._running))

    def _serve(self) -> None:
        now_s = self._timeline.now_s
        each_s = (now_s - self._looked_s) * self._speed()
        self._served_s += each_s
        self._used_s += each_s * len(self._running)
        self._looked_s = now_s

    def _plan(self) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next = None
        if self._running:
            left_s = max(0.0, self._running[0].time_s - self._served_s)
            self._next = self._timeline.after(left_s / self._speed(), self._finish)

    def _finish(self) -> None:
        self._serve()
        finished = heapq.heappop(self._running)
        self._served_s = max(self._served_s, finished.time_s)
        self._next = None
        self._plan()
        if finished.act is not None:
            finished.act()
