"""How a worker loads a batch at once, as torch's workers do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hatchway.loader.access import by_index, fetches_batches
from hatchway.loader.failure import CAUGHT, Failure, InitError, failure_of
from hatchway.loader.samples import SampleRunner
from hatchway.loader.schedule import Claim
from hatchway.loader.store import Store
from hatchway.loader.task import WorkerTask


def runner_of(task: WorkerTask, store: Store, hand_in: Callable[[int], None]) -> SampleRunner:
    """What runs the samples of ``task``; the arguments are :class:`SampleRunner`'s."""
    return (BatchRunner if task.fetches_batches else SampleRunner)(task, store, hand_in)


class BatchRunner(SampleRunner):
    """Loads whole home batches, and collates what they hold.

    With one call where the dataset has one for that (``__getitems__``), otherwise one sample
    after the other, each with its own seeds.
    """

    def __init__(self, task: WorkerTask, store: Store, hand_in: Callable[[int], None]) -> None:
        super().__init__(task, store, hand_in)
        self._asks_once = fetches_batches(task.dataset)
        self._dataset = task.dataset if self._asks_once else by_index(task.dataset)
        self._single = -1  # the sample that is loaded alone, for the batch

    def _make_loop(self) -> None:
        self._flags = self.spans = None  # nobody takes a part of a batch away

    def want(self) -> int:
        """How many of the next samples to claim: a whole home batch."""
        return self._commons.schedule.next_home_count()

    def run(self, claim: Claim) -> None:
        """Load and collate a home batch."""
        board, first, count = self._board, claim.first, claim.count
        keys = self._keys_of(claim)
        begun = time.monotonic()
        board.current.cells[self._worker_id] = first
        self._note_collating()
        places = range(first, first + count)
        load = self._load_at_once if self._asks_once else self._load_singly
        try:
            samples = load(places, [self._key(place, keys) for place in places])
        except CAUGHT as error:
            self._put_report(first, self._failure(error, places, keys))
            self._note_collated(first, count)
        else:
            self._single = -1
            self._put_collated(first, count, samples)
        self._single = -1
        board.assign(board.seconds, first, first + count, (time.monotonic() - begun) / count)
        self.has_run_all = True

    def _load_at_once(self, places: range, keys: list[Any]) -> Any:
        """Ask the dataset for the batch. The generators are its first sample's meanwhile."""
        self._seed(places[0], places[0] - self._board.start_of(places[0]))
        return self._dataset.__getitems__(keys)

    def _load_singly(self, places: range, keys: list[Any]) -> list[Any]:
        start, samples = self._board.start_of(places[0]), []
        for self._single, key in zip(places, keys, strict=True):
            self._seed(self._single, self._single - start)
            samples.append(self._dataset[key])
        return samples

    def _position_now(self) -> int:
        return super()._position_now() if self._single < 0 else self._single

    def _failure(self, error: BaseException, places: range, keys: Any) -> Failure:
        if isinstance(error, InitError) and self.init_failure is not None:
            return self.init_failure
        start, single = self._board.start_of(places[0]), self._single
        ranks = [place - start for place in places]
        return failure_of(
            error,
            doing=f"__getitems__ of positions {ranks}" if single < 0 else "loading the sample",
            position=None if single < 0 else single - start,
            index=None if single < 0 else self._key(single, keys),
            worker_id=self._worker_id,
        )
