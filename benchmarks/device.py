"""A stand-in for an accelerator: paced, asynchronous, one step in flight."""

from __future__ import annotations

import time
from collections.abc import Callable


class PacedDevice:
    """Runs one step a batch; a step lasts ``step_s``.

    The step of batch k starts when batch k is there and step k-1 is done. The
    loop that feeds the device holds batch k until then, and asks for the next
    batch while the device works. The schedule is exact: a late wake-up of the
    loop does not lengthen the device's steps.
    """

    def __init__(
        self,
        step_s: float,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.step_s = step_s
        self.arrivals: list[float] = []
        self.gaps_s: list[float] = []
        self._clock = clock
        self._sleep = sleep
        self._free_at: float | None = None

    def take(self) -> None:
        """Take the batch that has just arrived and start its step; wait for the step before."""
        arrived = self._clock()
        self.arrivals.append(arrived)
        if self._free_at is None:
            self._free_at = arrived
        else:
            self.gaps_s.append(max(0.0, arrived - self._free_at))
            self._wait(arrived)
        self._free_at = max(arrived, self._free_at) + self.step_s

    def finish(self) -> float:
        """Wait for the last step; return the clock's reading at its end."""
        if self._free_at is None:
            return self._clock()
        self._wait(self._clock())
        return self._free_at

    def _wait(self, now: float) -> None:
        if self._free_at is not None and now < self._free_at:
            self._sleep(self._free_at - now)
