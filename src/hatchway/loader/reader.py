"""A process that reads an iterable dataset, ahead of the workers that finish its samples."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hatchway.loader.commons import Commons
from hatchway.loader.failure import CAUGHT, Failure, failure_of
from hatchway.loader.items import PackedItems
from hatchway.loader.process import become, seed_like_torch, watch_parent
from hatchway.loader.seeding import sample_key
from hatchway.loader.shared import wait_readable


class Begin(NamedTuple):
    """To a reader: read the dataset from its beginning, for this pass."""

    pass_id: int
    base_seed: int
    epoch: int


class Taken(NamedTuple):
    """To a reader: the next of the home batches that it has sent was taken over."""

    pass_id: int


class Stop(NamedTuple):
    """To a reader: end."""


class Home(NamedTuple):
    """From a reader: a home batch lies in a block."""

    pass_id: int
    block: int
    checksums: list[int]


class End(NamedTuple):
    """From a reader: the dataset has ended, with a failure or without."""

    pass_id: int
    failure: Failure | None


class ReaderTask(NamedTuple):
    """Everything that a reader needs.

    Attributes:
        commons: The board, the buffer, the lock.
        connection: To the training process.
        dataset: The user's, its own copy from here on.
        worker_init_fn: Called with the reader's id, or None.
        reader_id: From 0.
        num_readers: As the dataset says.
        base_seed: As torch draws it.
        batch_size: Items of a home batch.
        drop_last: Whether a smaller last one is dropped.
        most_homes: How many home batches may be read that were not taken over.
        most_bytes: How many bytes they may take; one is read in any case.
        seeds_each_pass: Whether generators are seeded for each pass, or once.
    """

    commons: Commons
    connection: Any
    dataset: Any
    worker_init_fn: Callable[[int], None] | None
    reader_id: int
    num_readers: int
    base_seed: int
    batch_size: int
    drop_last: bool
    most_homes: int
    most_bytes: int
    seeds_each_pass: bool


def owner_id(commons: Commons, reader_id: int) -> int:
    """Who a reader is to the lock and to the buffer."""
    return commons.training_process + 1 + reader_id


def seed_stream(base_seed: int, epoch: int, reader_id: int) -> None:
    """Seed the generators as torch does in its worker; anew in later epochs."""
    if epoch:
        base_seed = sample_key(base_seed, epoch, 0) >> 2
    seed_like_torch(base_seed, reader_id)


def homes_of(dataset: Any, batch_size: int, *, drop_last: bool) -> Iterator[list[Any]]:
    """What a dataset yields, as home batches."""
    items = iter(dataset)
    while home := list(itertools.islice(items, batch_size)):
        if len(home) == batch_size or not drop_last:
            yield home
        if len(home) < batch_size:
            return


def main(task: ReaderTask) -> None:
    """Entry point of a reader."""
    name = f"hatchway-read-{task.reader_id}"
    become(name, task.reader_id, task.num_readers, task.base_seed, task.dataset)
    with contextlib.suppress(_Over, OSError, EOFError):
        Reader(task).run()


class _Over(BaseException):
    """There is nothing more to do: told so, or the training process is gone."""


class _GivenUp(BaseException):
    """The pass that is read was given up for another."""


class Reader:
    """The loop of one reader."""

    def __init__(self, task: ReaderTask) -> None:
        self._task = task
        self._owner = owner_id(task.commons, task.reader_id)
        self._connection = task.connection
        self._parent_alive = watch_parent()
        self._begin: Begin | None = None
        self._is_reading = False
        self._pass_id = -1
        self._num_read = 0
        self._ahead: deque[int] = deque()  # bytes of each home batch that was not taken over
        self._init_failure: Failure | None = None

    def run(self) -> None:
        """Read a pass each time that one begins."""
        task = self._task
        try:
            if task.worker_init_fn is not None:
                task.worker_init_fn(task.reader_id)
        except CAUGHT as error:
            self._init_failure = self._failure(error, f"worker_init_fn of reader {task.reader_id}")
        while True:
            while self._begin is None:
                self._listen(None)
            begin, self._begin = self._begin, None
            self._pass_id, self._num_read = begin.pass_id, 0
            self._ahead.clear()
            self._is_reading = True
            with contextlib.suppress(_GivenUp):
                self._send(End(begin.pass_id, self._init_failure or self._read(begin)))
            self._is_reading = False

    def _read(self, begin: Begin) -> Failure | None:
        """Read and send what the dataset yields; the failure that ended it, if one did."""
        task = self._task
        if task.seeds_each_pass:
            seed_stream(begin.base_seed, begin.epoch, task.reader_id)
        doing = "reading"
        try:
            watched = _Watched(task.dataset, self._look)
            for home in homes_of(watched, task.batch_size, drop_last=task.drop_last):
                doing = "storing what was read of"
                self._put(home)
                doing = "reading"
        except CAUGHT as error:
            place = f"in reader {task.reader_id}, after {self._num_read} samples"
            return self._failure(error, f"{doing} the dataset {place}")
        return None

    def _put(self, home: list[Any]) -> None:
        packed = PackedItems(home)
        while self._ahead and not self._has_room(packed.nbytes):
            self._listen(None)
        block = packed.store(self._task.commons, self._owner)
        self._ahead.append(packed.nbytes)
        self._num_read += len(home)
        self._send(Home(self._pass_id, block, packed.checksums))

    def _has_room(self, nbytes: int) -> bool:
        task = self._task
        return len(self._ahead) < task.most_homes and sum(self._ahead) + nbytes <= task.most_bytes

    def _look(self) -> None:
        """Between two items: see whether this pass goes on."""
        self._listen(0.0)

    def _send(self, message: Home | End) -> None:
        self._connection.send(message)

    def _listen(self, timeout_s: float | None) -> None:
        """Take what the training process said; wait for it as long as said."""
        parent = [] if self._parent_alive is None else [self._parent_alive]
        readable = wait_readable([self._connection.fileno(), *parent], timeout_s)
        if self._parent_alive in readable:
            raise _Over
        while self._connection.poll():
            message = self._connection.recv()
            if isinstance(message, Stop):
                raise _Over
            if isinstance(message, Begin):
                self._begin = message
            elif isinstance(message, Taken) and message.pass_id == self._pass_id and self._ahead:
                self._ahead.popleft()
        if self._is_reading and self._begin is not None:
            raise _GivenUp

    def _failure(self, error: BaseException, doing: str) -> Failure:
        return failure_of(error, doing=doing, position=None, index=None, worker_id=None)


class _Watched:
    """A dataset whose reader looks up before each item."""

    def __init__(self, dataset: Any, look: Callable[[], None]) -> None:
        self._dataset = dataset
        self._look = look

    def __iter__(self) -> Iterator[Any]:
        for item in self._dataset:
            yield item
            self._look()
