"""MinatoLoader of one device, as we model what is published of it (arXiv:2509.10712).

Front workers try each sample in the sampler's order. One that takes longer than the cut
goes to the temporary queue, from which background workers take it. Batches are made of
what is finished: fast samples first, then slow ones, in the order in which they came.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from hatchway.loader.simulator.device import Give
from hatchway.loader.simulator.place import Place

PAPER_QUANTILE = 0.75
ARTIFACT_CUT_S = 2.0
# How many samples the profile needs before there is a cut; our choice.
WARM_UP_SAMPLES = 64


@dataclass
class Profile:
    """The cut between fast and slow, found once and kept for all later epochs.

    Attributes:
        cut_s: Seconds; infinite during the warm-up.
        restarts: Whether a sample that took longer is made anew from its beginning, as in
            the public artifact, or goes on where it was, as in the paper.
    """

    cut_s: float
    restarts: bool
    seen_s: list[float] = field(default_factory=list)

    @classmethod
    def of_paper(cls) -> Profile:
        """The 75th percentile of a warm-up; the sample goes on where it was."""
        return cls(float("inf"), restarts=False)

    @classmethod
    def of_artifact(cls) -> Profile:
        """2 s whatever the samples take; the sample is made from scratch."""
        return cls(ARTIFACT_CUT_S, restarts=True)

    def observe(self, seconds: float) -> None:
        """A sample of the warm-up took so long."""
        if self.cut_s == float("inf"):
            self.seen_s.append(seconds)
            if len(self.seen_s) == WARM_UP_SAMPLES:
                self.cut_s = float(np.quantile(self.seen_s, PAPER_QUANTILE))

    def left_s(self, seconds: float) -> float:
        """What a background worker has to do of a sample that takes ``seconds`` in all."""
        return seconds if self.restarts else seconds - self.cut_s


class FastFirstLoader:
    """Fast samples first; as many background workers as front ones.

    Front workers stop while as many samples are finished as stock torch would have
    ahead, and help in the background once every sample was tried. No sample is dropped:
    unlike the artifact it counts positions, not batches.

    Args:
        place: Where it runs, and with what.
        profile: The cut.
    """

    def __init__(
        self,
        place: Place,
        profile: Profile,
    ) -> None:
        self.num_background_workers = self._num_front = place.num_workers
        setting = place.setting
        self._timeline = place.timeline
        self._cores = place.cores
        self._costs = setting.costs
        self._batch_size = setting.batch_size
        self._took_s = place.order_times_s.tolist()
        self._profile = profile
        self._most_ready = setting.prefetch_factor * self._num_front * setting.batch_size
        self._next = 0
        self._num_delivered = 0
        self._fast: deque[int] = deque()
        self._slow: deque[int] = deque()
        self._aside: deque[int] = deque()
        self._idle: list[int] = []
        self._give: Give | None = None

    def begin(self) -> None:
        """Start all workers one after the other; the front ones come first."""
        for worker in range(2 * self._num_front):
            started_s = (worker + 1) * self._costs.fork_s + self._costs.boot_s
            self._timeline.after(started_s, partial(self._go_on, worker))

    def ask(self, give: Give) -> None:
        """Wait for the next batch."""
        self._give = give
        self._hand_over()

    def _go_on(self, worker: int) -> None:
        """A worker takes its next sample, or sleeps."""
        is_front = worker < self._num_front
        if is_front and self._next < len(self._took_s):
            if len(self._fast) + len(self._slow) < self._most_ready:
                position, self._next = self._next, self._next + 1
                work_s = min(self._took_s[position], self._profile.cut_s) + self._costs.sample_s
                self._cores.run(work_s, partial(self._tried, worker, position))
                return
        elif self._aside:
            position = self._aside.popleft()
            work_s = self._profile.left_s(self._took_s[position])
            self._cores.run(work_s, partial(self._finish, worker, position, self._slow))
            return
        self._idle.append(worker)

    def _tried(self, worker: int, position: int) -> None:
        seconds = self._took_s[position]
        if seconds <= self._profile.cut_s:
            self._profile.observe(seconds)
            self._finish(worker, position, self._fast)
            return
        self._aside.append(position)
        self._wake()
        self._go_on(worker)

    def _finish(self, worker: int, position: int, queue: deque[int]) -> None:
        queue.append(position)
        self._go_on(worker)
        self._hand_over()

    def _wake(self) -> None:
        idle, self._idle = sorted(self._idle), []
        for worker in idle:
            self._go_on(worker)

    def _hand_over(self) -> None:
        """Make a batch of what is finished, if the loop waits and there is enough."""
        num_left = len(self._took_s) - self._num_delivered
        size = min(self._batch_size, num_left)
        if self._give is None or len(self._fast) + len(self._slow) < size:
            return
        chosen = [(self._fast or self._slow).popleft() for _ in range(size)]
        self._num_delivered += size
        give, self._give = self._give, None
        self._wake()
        give(np.array(chosen, np.int64))
