"""What a loader did, counted as it goes and shown as an immutable snapshot."""

from __future__ import annotations

import time
import weakref
from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LoaderStatistics:
    """A snapshot of one pass over a loader.

    Attributes:
        num_samples: Samples delivered.
        num_batches: Batches delivered.
        wall_s: Seconds from the first request for a batch to the last answer.
        wait_s: Seconds of these that the training loop waited for data, the
            start of the workers included.
        first_batch_s: Seconds from the first request to the first batch.
        longest_wait_s: The longest wait after the first batch.
        sample_time_quantiles_s: Seconds that a sample took, writing it into its
            batch included, by quantile (0.5, 0.75, 0.99, 1.0), of the most
            recent ones.
        slow_after_s: From how many seconds on a sample counts as slow now.
        buffer_bytes: The bound of the shared buffer.
        buffer_used_bytes: Bytes of it that hold samples and batches now.
        buffer_peak_bytes: The most memory that it ever took.
        num_copied_batches: Batches copied out of it because too many were kept.
        num_batches_ahead: Batches whose copy to the device (``device=``) had begun before
            the loop asked for them.
        num_displaced: Samples that came after their turn in the sampler's order.
        max_displacement: By how many positions at most.
        displacement_quantiles: Positions after its turn that a sample came, by
            quantile (0.5, 0.9, 0.99), over all samples.
        num_bound_stalls: How often the loop waited because ``max_displacement``
            forbade a batch that was finished.
        bound_stall_s: Seconds of waiting for that reason.
        num_workers: How many workers there should be: as the user said, or what
            ``num_workers="auto"`` came to.
        num_workers_reason: With ``"auto"``, why there are not more, or not fewer.
        num_workers_alive: Worker processes now, background workers included.
        num_guests: Worker processes of other ranks that work for this one, too, now.
        num_background_workers: Workers started because slow samples held nearly all.
        num_restarts: Workers that died and were replaced.
        num_retired: Workers that ``"auto"`` let go.
        order: ``"strict"`` or ``"ready"``, as it was chosen; empty before the first pass.
    """

    num_samples: int = 0
    num_batches: int = 0
    wall_s: float = 0.0
    wait_s: float = 0.0
    first_batch_s: float = 0.0
    longest_wait_s: float = 0.0
    sample_time_quantiles_s: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    slow_after_s: float = 0.0
    buffer_bytes: int = 0
    buffer_used_bytes: int = 0
    buffer_peak_bytes: int = 0
    num_copied_batches: int = 0
    num_batches_ahead: int = 0
    num_displaced: int = 0
    max_displacement: int = 0
    displacement_quantiles: tuple[int, int, int] = (0, 0, 0)
    num_bound_stalls: int = 0
    bound_stall_s: float = 0.0
    num_workers: int = 0
    num_workers_reason: str = ""
    num_workers_alive: int = 0
    num_guests: int = 0
    num_background_workers: int = 0
    num_restarts: int = 0
    num_retired: int = 0
    order: str = ""

    @property
    def wait_share(self) -> float:
        """The share of the wall time that the training loop waited for data."""
        return self.wait_s / self.wall_s if self.wall_s else 0.0


class Meter:
    """Counts one pass; written by the iterator, read by ``loader.statistics()``."""

    def __init__(self) -> None:
        self.num_samples = 0
        self.num_batches = 0
        self.num_restarts = 0
        self.num_retired = 0
        self.num_background_workers = 0
        self.starved_s = 0.0  # of the waiting: asleep, since no batch was ready
        self._stalled_batch = -1
        self._num_stalls = 0
        self._stall_s = 0.0
        self._wait_s = 0.0
        self._first_batch_s = 0.0
        self._longest_wait_s = 0.0
        self._begun = -1.0
        self._ended = -1.0
        self._late: Counter[int] = Counter()

    def asked(self) -> float:
        """The training loop asks for a batch; returns the time."""
        now = time.monotonic()
        if self._begun < 0:
            self._begun = now
        return now

    def answered(self, asked: float, num_samples: int) -> None:
        """A batch, or an error or the end (``num_samples=0``), was handed over."""
        self._ended = time.monotonic()
        wait_s = self._ended - asked
        self._wait_s += wait_s
        if not num_samples:
            return
        if not self.num_batches:
            self._first_batch_s = wait_s
        else:
            self._longest_wait_s = max(self._longest_wait_s, wait_s)
        self.num_batches += 1
        self.num_samples += num_samples

    def displaced(self, ranks: NDArray[np.int64], first_rank: int) -> None:
        """Samples with these places in the sampler's order left from ``first_rank`` on."""
        late = np.arange(first_rank, first_rank + len(ranks)) - ranks
        if late.any():
            values, counts = np.unique(late[late > 0], return_counts=True)
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                self._late[value] += count

    def stalled(self, batch: int, seconds: float) -> None:
        """The loop waited while ``max_displacement`` held a finished batch back."""
        self._num_stalls += batch != self._stalled_batch
        self._stalled_batch = batch
        self._stall_s += seconds

    def snapshot(self, **others: object) -> LoaderStatistics:
        """The counts so far, completed by what the iterator knows."""
        return LoaderStatistics(
            num_samples=self.num_samples,
            num_batches=self.num_batches,
            wall_s=max(0.0, self._ended - self._begun),
            wait_s=self._wait_s,
            first_batch_s=self._first_batch_s,
            longest_wait_s=self._longest_wait_s,
            num_displaced=sum(self._late.values()),
            max_displacement=max(self._late, default=0),
            displacement_quantiles=(
                self._late_quantile(0.5),
                self._late_quantile(0.9),
                self._late_quantile(0.99),
            ),
            num_bound_stalls=self._num_stalls,
            bound_stall_s=self._stall_s,
            num_background_workers=self.num_background_workers,
            num_restarts=self.num_restarts,
            num_retired=self.num_retired,
            **others,  # type: ignore[arg-type]
        )

    def _late_quantile(self, probability: float) -> int:
        above = self.num_samples * (1.0 - probability)
        for late in sorted(self._late, reverse=True):
            above -= self._late[late]
            if above < 0:
                return late
        return 0


class HasStatistics(Protocol):
    """An iterator that can tell what it did."""

    def statistics(self) -> LoaderStatistics:
        """What it did so far."""


class StatisticsBox:
    """Where a loader finds the statistics of its latest iterator, alive or not.

    Holds the iterator weakly: dropping it must still stop its workers.
    """

    def __init__(self) -> None:
        self._source: weakref.ref[HasStatistics] | None = None
        self._followed = 0
        self._last = LoaderStatistics()

    def follow(self, source: HasStatistics) -> None:
        """From now on, tell what ``source`` does."""
        self._source = weakref.ref(source)
        self._followed = id(source)
        self._last = LoaderStatistics()

    def keep(self, source: HasStatistics, last: LoaderStatistics) -> None:
        """``source`` is finished."""
        # By identity: a source that is being deleted has no weak reference any more.
        if self._followed == id(source):
            self._last = last
            self._source = None

    def read(self) -> LoaderStatistics:
        """The statistics of the latest iterator; all zeros before the first."""
        source = self._source() if self._source is not None else None
        return self._last if source is None else source.statistics()

    def __reduce__(self) -> tuple[Any, ...]:
        return StatisticsBox, ()
