"""How a worker runs the samples of a dataset that loads a batch at once (``__getitems__``)."""

from __future__ import annotations

import time
from collections.abc import Callable

from hatchway.loader.failure import CAUGHT, Failure, failure_of
from hatchway.loader.samples import InitError, SampleRunner
from hatchway.loader.schedule import Claim
from hatchway.loader.store import Store
from hatchway.loader.task import WorkerTask


def runner_of(task: WorkerTask, store: Store, hand_in: Callable[[int], None]) -> SampleRunner:
    """What runs the samples of ``task``; the arguments are :class:`SampleRunner`'s."""
    return (BatchRunner if task.fetches_batches else SampleRunner)(task, store, hand_in)


class BatchRunner(SampleRunner):
    """Asks the dataset for whole home batches, as torch does, and collates what it gives."""

    def __init__(self, task: WorkerTask, store: Store, hand_in: Callable[[int], None]) -> None:
        super().__init__(task, store, hand_in)
        self._dataset = task.dataset

    def _make_loop(self) -> None:
        self._flags = self.spans = None  # nobody takes a part of a batch away

    def want(self) -> int:
        """How many of the next samples to claim: a whole home batch."""
        return self._commons.schedule.next_home_count()

    def run(self, claim: Claim) -> None:
        """Load and collate a home batch. The generators are its first sample's meanwhile."""
        board, first, count = self._board, claim.first, claim.count
        keys, start = self._keys_of(claim), board.start_of(first)
        begun = time.monotonic()
        board.current.cells[self._worker_id] = first
        self._note_collating()
        self._seed(first, first - start)
        places = range(first, first + count)
        try:
            samples = self._dataset.__getitems__([self._key(place, keys) for place in places])
        except CAUGHT as error:
            self._put_report(first, self._failure(error, [place - start for place in places]))
            self._note_collated(first, count)
        else:
            self._put_collated(first, count, samples)
        board.assign(board.seconds, first, first + count, (time.monotonic() - begun) / count)
        self.has_run_all = True

    def _failure(self, error: BaseException, ranks: list[int]) -> Failure:
        if isinstance(error, InitError) and self.init_failure is not None:
            return self.init_failure
        return failure_of(
            error,
            doing=f"__getitems__ of positions {ranks}",
            position=None,
            index=None,
            worker_id=self._worker_id,
        )
