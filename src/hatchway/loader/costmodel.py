"""What each sample of a dataset costs, learned from its own past and from others. Pure."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hatchway.loader.cost import LEAST_CUT_S
from hatchway.loader.errors import StateError

# A sample's time differs from epoch to epoch (random crops, other programs): the average
# of the last few is what the next one is expected to take.
_NEWEST_SHARE = 0.5
# An index that was never seen is judged by those seen among so many on either side of it.
_REACH = 16
# A way of guessing is believed while it is this much better than naming the usual time.
_MUST_BEAT = 0.8
_OLD_SHARE = 0.95
# On a busy machine any sample may once take long. That is no reason to take 40 MB for the
# ten million cheap ones of a dataset: a slow one for each 40 KB is.
_INDICES_A_SLOW_ONE = 10_000
_LEAST_S = 1e-7
# A saved cost is one of 255 steps of a ninth of a factor of 2, from _LEAST_S on: within 4 %
# over 28 doublings, from 0.1 us to half a minute; what takes longer is saved as that.
_STEPS_A_DOUBLING = 9


class CostModel:
    """Seconds that a sample takes, by its dataset index, in 4 bytes an index.

    Nothing is stored before a sample has taken 2 ms, in large datasets one for each 10,000
    indices: cheaper ones are never worth a prediction. An index that was not seen is
    predicted from its size, where the user gave sizes, or from its neighbours, whichever
    has proved better on the indices that came for the first time; if neither has, by the
    usual time.

    Args:
        num_indices: The dataset's length; other indices are not learned.
        sizes: One number an index that grows with its cost, bytes say; None where
            there is none.
    """

    def __init__(self, num_indices: int, sizes: NDArray[np.float64] | None = None) -> None:
        self._num_indices = num_indices
        self._sizes = sizes
        self._costs: NDArray[np.float32] | None = None
        self._num_slow = 0
        self._usual_s = self._mean_s = 0.0
        self._by_neighbours = _Guess()
        self._by_size = _Guess()
        self._line = _Line()

    @property
    def is_useful(self) -> bool:
        """Whether it has seen a sample that is worth predicting."""
        return self._costs is not None

    def wants(self, seconds: NDArray[np.float32]) -> bool:
        """Whether samples that took so long teach anything; see :meth:`observe`."""
        return self._costs is not None or bool(len(seconds) and seconds.max() > LEAST_CUT_S)

    @property
    def usual_s(self) -> float:
        """The usual time of a sample, in seconds: a running geometric mean; 0 before any."""
        return self._usual_s

    @property
    def mean_s(self) -> float:
        """A running mean of the samples' times, in seconds; 0 before any."""
        return self._mean_s

    def observe(self, indices: NDArray[np.int64], seconds: NDArray[np.float32]) -> None:
        """Learn what samples took.

        Args:
            indices: Their dataset indices; negative ones count from the end, as in a list.
            seconds: What each took.
        """
        if self._costs is None:
            if not self.wants(seconds) or self._num_indices <= 0:
                return
            self._num_slow += int(np.count_nonzero(seconds > LEAST_CUT_S))
            if self._num_slow <= self._num_indices // _INDICES_A_SLOW_ONE:
                return
            # Pages of it are taken when they are written for the first time.
            self._costs = np.zeros(self._num_indices, np.float32)
        indices, known = self._own(indices)
        indices, seconds = indices[known], np.maximum(seconds[known], np.float32(_LEAST_S))
        if not len(indices):
            return
        before = self._costs[indices]
        is_new = before == 0
        if is_new.any():
            self._judge(indices[is_new], seconds[is_new])
        self._costs[indices] = np.where(
            is_new, seconds, before + np.float32(_NEWEST_SHARE) * (seconds - before)
        )
        share = 1 - _OLD_SHARE ** len(seconds) if self._usual_s else 1.0
        self._usual_s += share * (float(np.exp(np.log(seconds).mean())) - self._usual_s)
        self._mean_s += share * (float(seconds.mean()) - self._mean_s)

    def predict(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Seconds that samples are expected to take; 0 where nothing is known."""
        if self._costs is None:
            return np.zeros(len(indices), np.float32)
        indices, known = self._own(indices)
        found = np.where(known, self._costs[indices], np.float32(0))
        unseen = known & (found == 0)
        if unseen.any():
            found[unseen] = self._guess(indices[unseen])
        return found

    def state_dict(self) -> dict[str, Any]:
        """What was learned, small: a byte an index, compressed."""
        if self._costs is None:
            return {"num_indices": self._num_indices, "costs": None}
        steps = np.zeros(self._num_indices, np.uint8)
        seen = self._costs > 0
        scaled = np.log2(self._costs[seen] / np.float32(_LEAST_S)) * _STEPS_A_DOUBLING
        steps[seen] = np.clip(np.rint(scaled), 0, 254).astype(np.uint8) + 1
        return {
            "num_indices": self._num_indices,
            "costs": zlib.compress(steps.tobytes(), 1),
            "usual_s": self._usual_s,
            "mean_s": self._mean_s,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` saved.

        Raises:
            StateError: If it belongs to a dataset of another length, or is damaged.
        """
        if state["num_indices"] != self._num_indices:
            raise StateError(
                f"the saved sample costs are of a dataset of {state['num_indices']} samples, "
                f"this one has {self._num_indices}"
            )
        if state["costs"] is None:
            return
        try:
            unpack = zlib.decompressobj()
            steps = np.frombuffer(
                unpack.decompress(state["costs"], self._num_indices + 1), np.uint8
            )
        except zlib.error as error:
            raise StateError(f"the saved sample costs are damaged: {error}") from error
        if len(steps) != self._num_indices or not unpack.eof:
            raise StateError(
                f"the saved sample costs are damaged: {len(steps)} of {self._num_indices}"
            )
        exponents = (steps.astype(np.float32) - 1) / _STEPS_A_DOUBLING
        self._costs = np.where(steps > 0, _LEAST_S * np.exp2(exponents), 0).astype(np.float32)
        self._usual_s, self._mean_s = float(state["usual_s"]), float(state["mean_s"])

    def _own(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Indices from 0 on, and which of them are the dataset's; others become 0."""
        indices = np.where(indices < 0, indices + self._num_indices, indices)
        known = (indices >= 0) & (indices < self._num_indices)
        return np.where(known, indices, 0), known

    def _guess(self, unseen: NDArray[np.int64]) -> NDArray[np.float32]:
        by_size, by_neighbours = self._by_size, self._by_neighbours
        if by_size.is_believed and by_size.error <= by_neighbours.error:
            return self._from_sizes(unseen)
        if by_neighbours.is_believed:
            return self._from_neighbours(unseen)
        return np.full(len(unseen), self._usual_s, np.float32)

    def _judge(self, indices: NDArray[np.int64], seconds: NDArray[np.float32]) -> None:
        """See how well indices that came for the first time would have been guessed."""
        if self._usual_s:
            plain = _distance(seconds, np.float32(self._usual_s))
            self._by_neighbours.judge(_distance(seconds, self._from_neighbours(indices)), plain)
            if self._sizes is not None:
                self._by_size.judge(_distance(seconds, self._from_sizes(indices)), plain)
        if self._sizes is not None:
            self._line.observe(self._sizes[indices], seconds)

    def _from_sizes(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        assert self._sizes is not None
        guessed = self._line.at(self._sizes[indices])
        return np.where(guessed > 0, guessed, self._usual_s).astype(np.float32)

    def _from_neighbours(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """The geometric mean of what those around each took, or the usual time."""
        assert self._costs is not None
        around = indices[:, None] + np.arange(-_REACH, _REACH + 1)
        costs = self._costs[np.clip(around, 0, self._num_indices - 1)]
        costs[(around < 0) | (around >= self._num_indices)] = 0
        is_seen = costs > 0
        num_seen = is_seen.sum(axis=1)
        logs = np.log(costs, out=np.zeros_like(costs), where=is_seen)
        mean = np.exp(logs.sum(axis=1) / np.maximum(num_seen, 1))
        return np.where(num_seen > 0, mean, self._usual_s).astype(np.float32)


class _Guess:
    """How far a way of guessing is off, beside naming the usual time; old errors fade."""

    def __init__(self) -> None:
        self.error = 0.0
        self._plain = 0.0

    def judge(self, errors: NDArray[np.float32], plain: NDArray[np.float32]) -> None:
        """Add how far guesses were off, and how far the usual time was."""
        kept = _OLD_SHARE ** len(errors)
        self.error = kept * self.error + (1 - kept) * float(errors.mean())
        self._plain = kept * self._plain + (1 - kept) * float(plain.mean())

    @property
    def is_believed(self) -> bool:
        """Whether it has proved clearly better."""
        return self.error < _MUST_BEAT * self._plain


class _Line:
    """The straight line through (size, seconds) by least squares; old points fade."""

    def __init__(self) -> None:
        self._sums = np.zeros(5)

    def observe(self, sizes: NDArray[np.float64], seconds: NDArray[np.float32]) -> None:
        """Add points."""
        times = seconds.astype(np.float64)
        new = [len(sizes), sizes.sum(), times.sum(), sizes @ sizes, sizes @ times]
        self._sums = self._sums * 0.999 ** len(sizes) + np.array(new)

    def at(self, sizes: NDArray[np.float64]) -> NDArray[np.float64]:
        """The line at these sizes; zeros while there is none."""
        count, size, second, size_size, size_second = self._sums
        spread = count * size_size - size * size
        if spread <= 1e-12 * count * size_size:
            return np.zeros(len(sizes))
        slope = (count * size_second - size * second) / spread
        return np.asarray((second - slope * size) / count + slope * sizes)


def _distance(seconds: NDArray[np.float32], guessed: Any) -> NDArray[np.float32]:
    """How many times apart, as a logarithm."""
    apart: NDArray[np.float32] = np.abs(np.log(seconds / np.maximum(guessed, np.float32(_LEAST_S))))
    return apart
