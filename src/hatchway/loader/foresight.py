"""How long before its turn a sample should start, from what it is predicted to cost. Pure.

The training loop takes a position every ``pace_s`` seconds. A sample that takes ``cost_s``
is done when its turn comes if it starts ``cost_s / pace_s`` positions before it. Samples of
the usual cost start in turn: for all of them that distance is the same.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from hatchway.loader.cost import LEAST_CUT_S
from hatchway.loader.costmodel import CostModel

# How many times the usual cost is predicted slow.
_SLOW_TIMES = 2.0
_NUM_PACES = 32
_ENOUGH_PACES = 4
_LONGEST_LEAD = 1 << 20


class Foresight:
    """Predicts costs of planned samples, and the lead that each should have.

    Args:
        model: What samples cost.
        num_workers: How many samples run at once: what the pace is as long as the
            training loop has not shown its own.

    Attributes:
        model: What samples cost.
        num_workers: As given; it may change.
    """

    def __init__(self, model: CostModel, num_workers: int) -> None:
        self.model = model
        self.num_workers = num_workers
        self._paces_s: deque[float] = deque(maxlen=_NUM_PACES)
        self._last_s = -1.0

    def begin(self) -> None:
        """An epoch begins: the time until its first batch says nothing about the pace."""
        self._last_s = -1.0

    def delivered(self, num_samples: int, now_s: float) -> None:
        """The training loop took so many samples at this time."""
        if self._last_s >= 0 and num_samples:
            self._paces_s.append((now_s - self._last_s) / num_samples)
        self._last_s = now_s

    def pace_s(self) -> float:
        """Seconds in which the training loop takes a sample; 0 while nothing is known."""
        if len(self._paces_s) >= _ENOUGH_PACES:
            return sorted(self._paces_s)[len(self._paces_s) // 2]  # the median, or the one above
        return self.model.mean_s / self.num_workers

    def look(
        self, indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]] | None:
        """Predict the samples of a home batch.

        Returns:
            Seconds that each is expected to take, and how many positions before its
            turn it should start; None where none should.
        """
        pace_s = self.pace_s() if self.model.is_useful else 0.0
        if not pace_s:
            return None
        cost_s = self.model.predict(indices)
        usual_s = self.model.usual_s
        is_slow = cost_s > max(_SLOW_TIMES * usual_s, LEAST_CUT_S)
        if not is_slow.any():
            return None
        lead = np.minimum(np.ceil((cost_s - usual_s) / pace_s), _LONGEST_LEAD)
        return cost_s, np.where(is_slow, np.maximum(lead, 1), 0).astype(np.int32)
