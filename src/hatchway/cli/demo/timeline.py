"""When the device worked and when it stood waiting: interval arithmetic, no clocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Interval:
    """A half-open stretch of time ``[start_s, end_s)``, in seconds since the epoch began."""

    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        """Refuse an interval that ends before it starts.

        Raises:
            ValueError: If ``end_s`` is smaller than ``start_s``.
        """
        if self.end_s < self.start_s:
            raise ValueError(f"end_s={self.end_s} lies before start_s={self.start_s}")

    @property
    def length_s(self) -> float:
        """How long it lasts."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Timeline:
    """What one device did in one epoch, which starts at 0 and ends with the last step.

    Attributes:
        busy: The device's steps, in order and without overlap.
    """

    busy: tuple[Interval, ...]

    def __post_init__(self) -> None:
        """Refuse steps that overlap: one device does one thing at a time.

        Raises:
            ValueError: If a step starts before the one ahead of it ended.
        """
        for earlier, later in pairwise(self.busy):
            if later.start_s < earlier.end_s:
                raise ValueError(
                    f"a step starts at {later.start_s} s, before {earlier.end_s} s, "
                    "where the step ahead of it ends"
                )

    @classmethod
    def from_steps(cls, steps: Iterable[tuple[float, float]], *, started_s: float) -> Timeline:
        """Build a timeline from ``(start, end)`` readings of the clock that read ``started_s``."""
        return cls(tuple(Interval(start - started_s, end - started_s) for start, end in steps))

    @property
    def epoch_s(self) -> float:
        """Time from asking for the first batch to the end of the last step."""
        return self.busy[-1].end_s if self.busy else 0.0

    @property
    def busy_s(self) -> float:
        """Time the device worked."""
        return sum(step.length_s for step in self.busy)

    @property
    def busy_share(self) -> float:
        """Part of the epoch in which the device worked, 0 to 1."""
        return self.busy_s / self.epoch_s if self.epoch_s else 0.0

    @property
    def waits(self) -> tuple[Interval, ...]:
        """The stretches in which the device had no batch, the start of the epoch included."""
        ends = [0.0, *(step.end_s for step in self.busy)]
        return tuple(
            Interval(end, step.start_s)
            for end, step in zip(ends, self.busy, strict=False)
            if step.start_s > end
        )

    @property
    def first_batch_s(self) -> float:
        """Time from the start of the epoch to the first step."""
        return self.busy[0].start_s if self.busy else 0.0

    @property
    def longest_wait_s(self) -> float:
        """Longest wait for a batch after the first one, which ``first_batch_s`` tells apart."""
        return max((wait.length_s for wait in self.waits if wait.start_s > 0.0), default=0.0)
