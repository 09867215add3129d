"""How many workers a loader should have, from what it was seen to do. Pure.

The paper's worker scheduler adds workers while its queue of batches runs empty and takes
some away while it is full. Here the same is read from two times: how long the training
loop waited (the queue was empty), and how long the workers were at work (the rest of their
time it was full). Growth is tried and judged; what did not help is taken back.
After MinatoLoader (arXiv:2509.10712), section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

# A loop that waits for more than this share of its time is starved; below the other it is
# calm. Between the two nothing changes.
_STARVED, _CALM = 0.02, 0.005
# So many samples in each of two periods tell whether growth between them helped; it must
# have brought this share of what as many more workers can bring.
_ENOUGH_TO_JUDGE = 32
_WORTH = 0.2
# Where the workers take less than this share of the cores they wait for something else, and
# a step may be so large; else twofold.
_HARDLY_USED, _IDLE_FACTOR = 0.25, 4
# Workers beyond those that were at work on average, for the unevenness of samples.
_SPARE = 1.25
# For so long the loop must be calm before workers are taken away, and so long nothing is
# tried again that was wrong: twice as long each time.
_PATIENCE_S = 3.0
_FIRST_PENALTY_S, _LONGEST_PENALTY_S = 10.0, 160.0
# Less than this share of the workers is not worth a change.
_LEAST_CHANGE = 0.15


class AutoCount(int):
    """``num_workers="auto"``: the number that it begins with, for whoever wants an int.

    A loader that is made with another loader's attributes is as automatic as that one.
    """

    def __repr__(self) -> str:
        return "'auto'"


class Observation(NamedTuple):
    """What was seen for a while.

    Attributes:
        seconds: How long.
        starved_s: For how much of it the training loop slept, since no batch was ready.
        num_samples: Samples that the workers finished.
        busy_s: Seconds that workers were at work, taken together.
        cpu_s: Processor seconds of the workers; 0 where the system does not say.
        num_runnable: Workers that run or wait for a core at its end.
        num_cores: Cores' worth of time that the training process left for them.
        most: Called for how many workers there is memory, where more are wanted.
    """

    seconds: float
    starved_s: float
    num_samples: int
    busy_s: float
    cpu_s: float = 0.0
    num_runnable: int = 0
    num_cores: float = math.inf
    most: Callable[[], int] = lambda: 1 << 15


class WorkerCount:
    """Decides how many workers there should be, with hysteresis.

    Args:
        start: How many there are at first.
        most: How many there may be.

    Attributes:
        count: How many there should be now.
        reason: Why there are not more, or not fewer, in a few words.
    """

    def __init__(self, start: int, most: int) -> None:
        self.count = min(start, most)
        self.reason = "as many as there are cores" if start < most else "max_workers"
        self._most = most
        self._now_s = 0.0
        self._calm_s = 0.0
        self._crowded = 0
        self._before: tuple[int, float, int] | None = None  # workers, samples a second, samples
        self._ceiling = _Bound()
        self._floor = _Bound()
        self._shrunk = (-math.inf, 0)

    def decide(self, seen: Observation, num_workers: int) -> int:
        """How many workers there should be, after what was seen with so many as there are.

        What the loop had no time to start, since it did not wait, was not needed.
        """
        self.count = max(1, min(self.count, num_workers))
        self._now_s += seen.seconds
        before, self._before = self._before, None
        waited = min(1.0, seen.starved_s / seen.seconds)
        crowd = seen.num_runnable - 1.5 * seen.num_cores - 1
        self._crowded = self._crowded + 1 if crowd > 0 else 0
        self._calm_s = self._calm_s + seen.seconds if waited < _CALM else 0.0
        if self._crowded >= 2:
            self._crowded = 0
            fewer = self.count - math.ceil(seen.num_runnable - seen.num_cores - 1)
            self._shrink(max(fewer, self.count // 2, 1), "more would only share the cores")
        elif waited > _STARVED:
            if before is not None and self._was_useless(before, seen):
                self._ceiling.set(before[0], self._now_s)
                self._change(before[0], "more were no faster")
            else:
                self._grow(waited, seen)
        elif self._calm_s >= _PATIENCE_S:
            self._release(seen)
        return self.count

    def _grow(self, waited: float, seen: Observation) -> None:
        """The loop starves: add workers, as far as there is something left for them."""
        count = self.count
        is_idle = seen.cpu_s < _HARDLY_USED * seen.num_cores * seen.seconds
        most = count * (_IDLE_FACTOR if is_idle else 2)
        wanted = min(most, max(count + 1, math.ceil(count / max(1 - waited, 0.01))))
        each = seen.cpu_s / seen.seconds / count
        limits = [
            (self._most, "max_workers"),
            (int(seen.num_cores / each + 0.25) if each > 0 else wanted, "no core is free"),
            (self._ceiling.at(self._now_s, wanted), "more were no faster"),
        ]
        if seen.num_runnable > seen.num_cores:
            limits.append((count, "no core is free"))
        bound, reason = min(limits)
        if bound > count:
            bound, reason = min((bound, reason), (seen.most(), "no memory for more"))
        if bound <= count:
            self.reason = reason
            return
        since, shrunk_from = self._shrunk
        if self._now_s - since < _FIRST_PENALTY_S:
            self._floor.set(shrunk_from, self._now_s)  # it was wrong to take them away
        self._before = (count, seen.num_samples / seen.seconds, seen.num_samples)
        self._change(min(wanted, bound), "the training loop waited")

    def _was_useless(self, before: tuple[int, float, int], seen: Observation) -> bool:
        """Whether the workers that were added last brought next to nothing."""
        count, rate, num_samples = before
        if min(num_samples, seen.num_samples) < _ENOUGH_TO_JUDGE:
            return False
        gain = seen.num_samples / seen.seconds / rate - 1
        return gain < _WORTH * (self.count / count - 1)

    def _release(self, seen: Observation) -> None:
        """The loop has not waited for long: let go of workers that had nothing to do."""
        busy = max(seen.busy_s, seen.cpu_s) / seen.seconds
        needed = max(math.ceil(busy * _SPARE) + 1, self._floor.at(self._now_s, 1))
        if needed <= self.count * (1 - _LEAST_CHANGE):
            self._shrink(max(needed, self.count // 2), "the training loop takes no more")
            self._calm_s = 0.0
        else:
            self.reason = "the training loop takes no more"

    def _shrink(self, count: int, reason: str) -> None:
        if count < self.count:
            self._shrunk = (self._now_s, self.count)
        self._change(min(count, self.count), reason)

    def _change(self, count: int, reason: str) -> None:
        self.count, self.reason = max(1, count), reason


class _Bound:
    """A bound that was learned from a mistake; forgotten after a while, longer each time."""

    def __init__(self) -> None:
        self._value: int | None = None
        self._until_s = 0.0
        self._penalty_s = _FIRST_PENALTY_S

    def set(self, value: int, now_s: float) -> None:
        """It was wrong to go past ``value``."""
        self._value, self._until_s = value, now_s + self._penalty_s
        self._penalty_s = min(2 * self._penalty_s, _LONGEST_PENALTY_S)

    def at(self, now_s: float, otherwise: int) -> int:
        """The bound now, or ``otherwise`` where there is none."""
        if self._value is None or now_s >= self._until_s:
            return otherwise
        return self._value
