"""Baselines that put fast samples first without any bound, in plain code.

They are written here, after what loaders of this kind do, and are nobody's product.
Threads make the samples: these sleep, so that the interpreter's lock hardly matters.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from torch.utils.data import default_collate

from benchmarks.accuracy.lanes import Lanes

NUM_BACKGROUND = 2
PATIENCE_S = 0.002

S_co = TypeVar("S_co", covariant=True)
S = TypeVar("S")


class Source(Protocol[S_co]):
    """Samples that can be given up."""

    def __getitem__(self, index: int, /) -> S_co:
        """Make a sample, however long that takes."""

    def attempt(self, index: int, patience_s: float) -> S_co | None:
        """Make a sample, or give up after ``patience_s``."""


def unbounded(
    dataset: Source[Any], order: Sequence[int], batch_size: int, num_workers: int
) -> Iterator[Any]:
    """Deliver each sample of ``order`` once, in batches of whatever is finished first."""
    with Crew(dataset, order, Lanes(len(order), goes_round=False), num_workers) as crew:
        for start in range(0, len(order), batch_size):
            num_samples = min(batch_size, len(order) - start)
            yield default_collate([crew.wait_sample() for _ in range(num_samples)])


def counting(
    dataset: Source[Any], order: Sequence[int], batch_size: int, num_workers: int
) -> Iterator[Any]:
    """Deliver as many full batches as ``order`` would fill, of whatever is finished first.

    Behaves as the public artifact of MinatoLoader (arXiv:2509.10712) does in this: an
    epoch is a number of batches, not a set of positions; front workers that are through
    the order begin it anew; what is late when the epoch ends is dropped, and so is the
    incomplete batch. So samples are lost, and others come twice.
    """
    with Crew(dataset, order, Lanes(len(order), goes_round=True), num_workers) as crew:
        for _ in range(len(order) // batch_size):
            yield default_collate([crew.wait_sample() for _ in range(batch_size)])


class Crew(Generic[S]):
    """Threads that take tasks from the lanes; finished samples wait in an unbounded queue.

    Of ``num_workers`` threads ``NUM_BACKGROUND`` only make samples that were set aside.
    """

    def __init__(
        self, dataset: Source[S], order: Sequence[int], lanes: Lanes, num_workers: int
    ) -> None:
        if num_workers <= NUM_BACKGROUND:
            raise ValueError(f"num_workers is {num_workers}: more than {NUM_BACKGROUND} are needed")
        self._dataset = dataset
        self._order = order
        self._lanes = lanes
        self._finished: queue.SimpleQueue[tuple[S | None, Exception | None]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._has_ended = False
        self._threads = [
            threading.Thread(target=self._work, args=(i < NUM_BACKGROUND,), daemon=True)
            for i in range(num_workers)
        ]

    def __enter__(self) -> Crew[S]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def wait_sample(self) -> S:
        """Wait for the sample that is finished next; raise what a worker raised."""
        sample, error = self._finished.get()
        if sample is None:
            assert error is not None
            raise error
        return sample

    def _work(self, in_background: bool) -> None:
        try:
            self._make_samples(in_background)
        except Exception as error:  # it belongs to who waits for the sample
            self._finished.put((None, error))

    def _make_samples(self, in_background: bool) -> None:
        while True:
            with self._changed:
                task = self._lanes.take(in_background=in_background)
                while task is None and not self._has_ended:
                    self._changed.wait()
                    task = self._lanes.take(in_background=in_background)
                if task is None or self._has_ended:
                    return
            index = self._order[task.position]
            if not task.is_first_attempt:
                self._finished.put((self._dataset[index], None))
            elif (sample := self._dataset.attempt(index, PATIENCE_S)) is not None:
                self._finished.put((sample, None))
            else:
                with self._changed:
                    self._lanes.set_aside(task.position)
                    self._changed.notify()
