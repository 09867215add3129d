"""What samples cost: how many make a chunk, and from when on one is slow. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHUNK_S = 0.001
LONGEST_CHUNK = 256
# A batch of samples that are no rows is made by one worker, whole, if it takes no longer
# and its samples take less each: handing such samples over one by one costs 50 us each.
WHOLE_BATCH_S = 0.025
_WHOLE_SAMPLE_S = 0.001
# Cheaper ones go whole whatever their number: one by one they cost several times that.
_TINY_SAMPLE_S = 20e-6
_SLOW_SAMPLE_S = 0.002
_NUM_WARY = 1024
# No sample is slow by the quantile before that: to go on without it costs a copy of its
# batch, and storing a sample that is no row is not counted in its time.
LEAST_CUT_S = 0.002
# Until enough samples are known, one that takes this long is called slow.
FIRST_CUT_S = 0.25
_ENOUGH = 16
SLOW_QUANTILE = 0.75
# Where slower samples than the cut are rare, they are the scheduler's doing or not worth a
# displacement: unless they take this long, the order is kept.
RARE_QUANTILE = 0.97
RARE_PATIENCE_S = 0.05


class ChunkSize:
    """How many samples a worker takes at once: about a millisecond of work."""

    def __init__(self, target_s: float = CHUNK_S) -> None:
        self._target_s = target_s
        self._mean_s = target_s

    def observe(self, count: int, seconds: float) -> None:
        """``count`` samples took ``seconds`` together."""
        if count:
            self._mean_s += 0.25 * (seconds / count - self._mean_s)

    def next(self) -> int:
        """The length of the next chunk, at least 1."""
        return max(1, min(LONGEST_CHUNK, round(self._target_s / max(self._mean_s, 1e-9))))


class BatchCost:
    """Whether one worker should make a whole batch, by the times of its recent samples.

    Args:
        is_fixed: Whether a batch waits for each of its samples in any case. If not,
            one slow sample must not hold back those that are finished beside it.
    """

    def __init__(self, *, is_fixed: bool) -> None:
        self._is_fixed = is_fixed
        self._mean_s = _WHOLE_SAMPLE_S
        self._num_wary = 0

    def observe(self, seconds: NDArray[np.float32]) -> None:
        """Add the times of samples that were run one after the other."""
        self._mean_s += 0.25 * (float(seconds.mean()) - self._mean_s)
        self._num_wary = max(0, self._num_wary - len(seconds))
        if seconds.max() > _SLOW_SAMPLE_S:
            self._num_wary = _NUM_WARY

    def fits(self, count: int) -> bool:
        """Whether a batch of ``count`` samples is short and even enough."""
        is_even = self._is_fixed or not self._num_wary
        short = min(_WHOLE_SAMPLE_S, WHOLE_BATCH_S / count)
        return is_even and self._mean_s < max(short, _TINY_SAMPLE_S)


def patience_with_batch_s(count: int) -> float:
    """After how long a worker hands in what it has of a whole batch."""
    return 2 * max(WHOLE_BATCH_S, count * _TINY_SAMPLE_S)


class SampleTimes:
    """Quantiles of the most recent sample times, and the cut between fast and slow.

    Args:
        cut: A quantile between 0 and 1 of the recent times, or seconds.
        is_quantile: Which of the two ``cut`` is.
        window: How many recent samples count.
    """

    def __init__(self, cut: float, *, is_quantile: bool, window: int = 1024) -> None:
        self._cut = cut
        self._is_quantile = is_quantile
        self._ring = np.zeros(window, np.float32)
        self._num_seen = 0
        self._next_look = _ENOUGH
        self._patience_s = 0.0
        self._cut_s = FIRST_CUT_S if is_quantile else cut

    def observe(self, seconds: NDArray[np.float32]) -> None:
        """Add the times of finished samples."""
        window = len(self._ring)
        seconds = seconds[-window:]
        at = self._num_seen % window
        first = min(len(seconds), window - at)
        self._ring[at : at + first] = seconds[:first]
        self._ring[: len(seconds) - first] = seconds[first:]
        self._num_seen += len(seconds)
        if self._num_seen >= self._next_look:
            # A quantile of a thousand takes tens of microseconds, an eighth of what the loop
            # spends on a batch of cheap samples: once all of the recent ones are new is enough.
            self._next_look = self._num_seen + min(self._num_seen, window)
            quantile = self._cut if self._is_quantile else SLOW_QUANTILE
            # One or two of few samples are rare, too.
            rare_quantile = min(RARE_QUANTILE, 1 - 2 / self._num_seen)
            at_cut, median, rare = self.quantiles(quantile, 0.5, rare_quantile)
            # In an even workload a quarter of the samples lies above the 75th
            # percentile by microseconds: twice the median is slow for sure.
            usual_s = max(at_cut, 2 * median, LEAST_CUT_S)
            self._patience_s = max(usual_s, RARE_PATIENCE_S) if rare <= usual_s else usual_s
            if self._is_quantile:
                self._cut_s = usual_s

    def cut_s(self) -> float:
        """Seconds after which a running sample is slow."""
        return self._cut_s

    def patience_s(self) -> float:
        """Seconds that a running sample is worth waiting for; 0 while too few are known."""
        return self._patience_s if self._is_quantile else min(self._cut_s, self._patience_s)

    def quantiles(self, *probabilities: float) -> tuple[float, ...]:
        """Quantiles of the recent times, in seconds; zeros before the first sample."""
        if not self._num_seen:
            return (0.0,) * len(probabilities)
        recent = self._ring[: self._num_seen]
        # The nearest rank: np.quantile's interpolation costs ten times as much.
        ranks = [round(probability * (len(recent) - 1)) for probability in probabilities]
        partitioned = np.partition(recent, ranks)
        return tuple(float(partitioned[rank]) for rank in ranks)
