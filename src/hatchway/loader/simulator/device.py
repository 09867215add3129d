"""The devices of a data-parallel job: one step at a time, all together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hatchway.loader.simulator.clock import Act, Timeline

Give = Callable[[NDArray[np.int64]], None]


class RankLoader(Protocol):
    """A simulated loader of one device."""

    def begin(self) -> None:
        """The training loop begins an epoch."""

    def ask(self, give: Give) -> None:
        """The loop asks for a batch: ``give`` is called with ranks in its order, now or later."""


class Devices:
    """Steps that begin when every device has its batch, and last ``step_s``.

    A training loop that has a batch waits until the step before is done, begins the next
    one, and asks for another batch while that runs.

    Attributes:
        waits_s: How long the devices waited before each step but the first.
        first_s: When the first step began.
    """

    def __init__(self, timeline: Timeline, step_s: float, num_devices: int) -> None:
        self.waits_s: list[float] = []
        self.first_s = 0.0
        self._timeline = timeline
        self._step_s = step_s
        self._num_devices = num_devices
        self._ends_s: list[float] = []
        self._num_begun = [0] * num_devices
        self._num_ready: dict[int, int] = defaultdict(int)
        self._held: dict[int, list[Act]] = defaultdict(list)

    @property
    def end_s(self) -> float:
        """When the last step is done."""
        return self._ends_s[-1] if self._ends_s else self._timeline.now_s

    @property
    def num_steps(self) -> int:
        """How many steps there were."""
        return len(self._ends_s)

    def take(self, rank: int, go_on: Act) -> None:
        """A batch has arrived at a device; ``go_on`` is called when its step is begun."""
        step = self._num_begun[rank]
        self._num_begun[rank] = step + 1

        def begin() -> None:
            self._begin(step)
            go_on()

        if step == 0:
            begin()
        elif step <= len(self._ends_s):
            self._timeline.at(self._ends_s[step - 1], begin)
        else:
            self._held[step].append(begin)

    def _begin(self, step: int) -> None:
        self._num_ready[step] += 1
        if self._num_ready[step] < self._num_devices:
            return
        now_s = self._timeline.now_s
        if step:
            self.waits_s.append(max(0.0, now_s - self._ends_s[-1]))
        else:
            self.first_s = now_s
        self._ends_s.append(now_s + self._step_s)
        for begin in self._held.pop(step + 1, ()):
            self._timeline.at(self._ends_s[-1], begin)


class TrainingLoop:
    """Asks a loader for one batch after the other, and notes what came.

    Attributes:
        delivered: The batches, as places in the device's order.
    """

    def __init__(self, rank: int, loader: RankLoader, devices: Devices, num_samples: int) -> None:
        self.delivered: list[NDArray[np.int64]] = []
        self._rank = rank
        self._loader = loader
        self._devices = devices
        self._num_left = num_samples

    def begin(self) -> None:
        """Begin the epoch."""
        self._loader.begin()
        self._loader.ask(self._take)

    def _take(self, ranks: NDArray[np.int64]) -> None:
        self.delivered.append(ranks)
        self._num_left -= len(ranks)
        self._devices.take(self._rank, self._go_on)

    def _go_on(self) -> None:
        if self._num_left > 0:
            self._loader.ask(self._take)
