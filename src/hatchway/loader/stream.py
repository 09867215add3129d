"""The training process's end of the readers: home batches as they come, each in its turn."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from hatchway.loader.arrival import NotYet
from hatchway.loader.board import Block, Head, Status
from hatchway.loader.commons import Commons
from hatchway.loader.errors import WorkerDiedError
from hatchway.loader.failure import describe_exit
from hatchway.loader.homekeys import Drawn, StoredKeys
from hatchway.loader.pool import end_processes, launch
from hatchway.loader.reader import Begin, End, Home, ReaderTask, Stop, Taken, main, owner_id

# A dead reader's exit status comes a moment after its end of the connection is closed.
_REAP_S = 5.0


class Stream:
    """Yields the home batches of a dataset that readers read; an iterator that may say NotYet.

    Iterating over it anew goes on: a pass begins with :meth:`begin`.

    Args:
        task_of: What a reader is given, for its ``reader_id`` and ``connection``.
        num_readers: How many readers there are.
        context: As ``multiprocessing_context``.
        commons: Where readers put what they read.
        most_bytes: How many bytes of what was read may wait for workers.
    """

    def __init__(
        self,
        task_of: Callable[..., ReaderTask],
        num_readers: int,
        context: Any,
        commons: Commons,
        most_bytes: int,
    ) -> None:
        self._task_of = task_of
        self._num_readers = num_readers
        self._context = context
        self._commons = commons
        self._most_bytes = most_bytes
        self._drawn = Drawn()
        self._processes: dict[int, Any] = {}
        self._connections: dict[int, Any] = {}
        self._pass_id = 0
        self._num_samples = 0
        self._turns: list[int] = []  # readers that have not ended
        self._turn = 0
        self._finalizer = weakref.finalize(
            self, _close, self._processes, self._connections, os.getpid()
        )

    def start(self) -> None:
        """Start the readers anew: with the dataset as it is now."""
        _close(self._processes, self._connections, os.getpid())
        for reader_id in range(self._num_readers):
            self._connections[reader_id], theirs = self._context.Pipe()
            process = self._context.Process(
                target=main,
                args=(self._task_of(reader_id=reader_id, connection=theirs),),
                name=f"hatchway-reader-{reader_id}",
            )
            process.daemon = True
            try:
                launch(process)
            finally:
                theirs.close()  # so that the connection ends when the reader does
            self._processes[reader_id] = process

    def begin(self, base_seed: int, epoch: int) -> None:
        """Begin a pass: the readers read the dataset from its beginning."""
        self._pass_id += 1
        self._num_samples = 0
        self._turns, self._turn = list(range(self._num_readers)), 0
        for reader_id in self._turns:
            self._tell(reader_id, Begin(self._pass_id, base_seed, epoch))

    def has_lost_readers(self) -> bool:
        """Whether a reader died."""
        return any(not process.is_alive() for process in self._processes.values())

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> StoredKeys:
        """The next home batch.

        Raises:
            NotYet: If it is not there yet.
            StopIteration: If all readers have come to the end.
            Exception: What the dataset raised; WorkerDiedError if its reader died.
        """
        while self._turns:
            if self._is_full():
                raise NotYet
            reader_id = self._turns[self._turn]
            message = self._heard(reader_id)
            if isinstance(message, Home):
                self._turn = (self._turn + 1) % len(self._turns)
                self._num_samples += len(message.checksums)
                return StoredKeys(message.checksums, self._commons, message.block, self._drawn)
            if message.failure is not None:
                self._turns.clear()
                message.failure.reraise()
            del self._turns[self._turn]
            self._turn %= max(1, len(self._turns))
        raise StopIteration

    def describe(self) -> str:
        """What the readers are doing, in words."""
        waits = (
            f"the loop waits for reader {self._turns[self._turn]}" if self._turns else "all read"
        )
        return f"{self._num_samples} samples were read of the dataset; {waits}"

    def stop(self) -> None:
        """Tell the readers to end; :meth:`close` waits for them."""
        for reader_id in self._connections:
            self._tell(reader_id, Stop())

    def close(self) -> None:
        """Stop the readers and wait until they are gone."""
        self._finalizer()

    def _is_full(self) -> bool:
        """Whether what was read and is not finished takes its share of the buffer.

        Two batches may be under way in any case: fewer could wait for each other.
        """
        board = self._commons.board
        head = board.head
        homes = np.arange(head[Head.HOME_TAIL], head[Head.HOMES]) & board.home_mask
        blocks = board.home_keys.array[homes]
        planned = int(board.block_bytes.array[blocks[blocks >= 0]].sum())
        if planned + self._drawn.nbytes <= self._most_bytes:
            return False
        begin, end = head[Head.TAIL], head[Head.PUBLISHED]
        ahead = end - begin - board.count(board.status, begin, end, Status.CONSUMED)
        return bool(ahead >= 2 * self._commons.config.rules.batch_size)

    def _heard(self, reader_id: int) -> Home | End:
        """What a reader sent in this pass."""
        connection, process = self._connections[reader_id], self._processes[reader_id]
        while True:
            # In this order: what it sent before it died is still to be read.
            is_alive = process.is_alive()
            try:
                if not connection.poll():
                    if is_alive:
                        raise NotYet(connection.fileno())
                    raise self._death_of(reader_id)
                message = connection.recv()
            except (EOFError, ConnectionError):
                raise self._death_of(reader_id) from None
            if isinstance(message, Home) and not self._adopt(reader_id, message):
                raise self._death_of(reader_id)
            if message.pass_id == self._pass_id:
                return message  # type: ignore[no-any-return]

    def _adopt(self, reader_id: int, home: Home) -> bool:
        """Take a block over from its reader, unless it is lost or belongs to a pass before."""
        commons, block = self._commons, home.block
        owner = owner_id(commons, reader_id)
        with commons.locked(commons.training_process):
            # Whoever finds that a reader died within the lock frees what was the reader's.
            is_there = commons.board.block_owner.cells[block] == owner + 1
            is_there = is_there and commons.board.block_state.cells[block] == Block.USED
            if is_there:
                commons.heap.adopt(block)
                if home.pass_id != self._pass_id:
                    commons.heap.release(block)
        if is_there:
            self._tell(reader_id, Taken(home.pass_id))
        return bool(is_there)

    def _death_of(self, reader_id: int) -> WorkerDiedError:
        """The error that stands for a dead reader; what it had not handed over is freed."""
        self._turns.clear()
        process = self._processes[reader_id]
        process.join(_REAP_S)
        commons = self._commons
        with commons.locked(commons.training_process):
            commons.heap.repair(
                commons.delivery.referenced_blocks(), {owner_id(commons, reader_id)}
            )
        return WorkerDiedError(
            f"reader {reader_id}, the process that reads the dataset, "
            f"{describe_exit(process.exitcode)} after {self._num_samples} samples; iterate over "
            "the loader anew, or go on from a saved state",
            exit_code=process.exitcode,
            worker_id=reader_id,
        )

    def _tell(self, reader_id: int, message: Begin | Taken | Stop) -> None:
        with contextlib.suppress(OSError):  # it died, which is seen where it is waited for
            self._connections[reader_id].send(message)


def _close(processes: dict[int, Any], connections: dict[int, Any], pid: int) -> None:
    if os.getpid() != pid:
        return  # a forked child of the training process owns no readers
    for connection in connections.values():
        with contextlib.suppress(OSError):
            connection.send(Stop())
    end_processes(processes)
    for connection in connections.values():
        connection.close()
    connections.clear()
