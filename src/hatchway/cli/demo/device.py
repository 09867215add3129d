"""What consumes the batches: a device, or a paced stand-in for one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Device(Protocol):
    """A device with a queue of one step: it works while the host fetches the next batch."""

    def step(self, image: Tensor, label: Tensor) -> None:
        """Start a training step; return once the step before it has ended."""
        ...

    def finish(self) -> list[tuple[float, float]]:
        """Wait for the last step; return start and end of each, on ``time.monotonic``."""
        ...

    @property
    def losses(self) -> list[float]:
        """The loss of each step; empty where nothing is trained."""
        ...


class PacedDevice:
    """A stand-in for a device: each step takes ``step_s`` on its own timeline, by deadlines.

    A batch that is handed over while the device works starts at the very moment the device is
    free, so that the host's wake-up is not counted as a wait.
    """

    def __init__(
        self,
        step_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._step_s = step_s
        self._clock = clock
        self._sleep = sleep
        self._free_at_s = clock()
        self._steps: list[tuple[float, float]] = []

    def step(self, image: Tensor, label: Tensor) -> None:
        """Occupy the device for one step; return once the step before it has ended."""
        del image, label
        start_s = max(self._clock(), self._free_at_s)
        self._wait_until(start_s)
        self._free_at_s = start_s + self._step_s
        self._steps.append((start_s, self._free_at_s))

    def finish(self) -> list[tuple[float, float]]:
        """Wait for the last step; return start and end of each."""
        self._wait_until(self._free_at_s)
        return self._steps

    @property
    def losses(self) -> list[float]:
        """Nothing is trained, so there is no loss."""
        return []

    def _wait_until(self, deadline_s: float) -> None:
        while (left_s := deadline_s - self._clock()) > 0:
            self._sleep(left_s)
