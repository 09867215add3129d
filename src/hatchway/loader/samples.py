"""How a worker runs the samples that it claimed, and hands them over."""

from __future__ import annotations

import pickle
import random
import time
from collections.abc import Callable
from typing import Any

from hatchway.loader import native, payload
from hatchway.loader.access import by_index
from hatchway.loader.admission import VISIT_S
from hatchway.loader.board import Head, Kind, Running, Status
from hatchway.loader.context import tell_key
from hatchway.loader.cost import BatchCost, ChunkSize, patience_with_batch_s
from hatchway.loader.errors import BufferFullError, SharedMemoryError
from hatchway.loader.failure import (
    CAUGHT,
    Failure,
    InitError,
    Unusable,
    collating,
    failure_of,
)
from hatchway.loader.schedule import Claim
from hatchway.loader.seeding import (
    NoSeeder,
    Seeder,
    collate_position,
    make_seeder,
    sample_key,
)
from hatchway.loader.store import Store
from hatchway.loader.task import WorkerTask

# Why the native loop came back; see native/loader/chunk.hpp.
_EXHAUSTED, _UNWRITTEN, _VISIT, _RAISED = range(4)


class SampleRunner:
    """Runs ``dataset[index]`` for claimed positions and stores what comes back.

    Args:
        task: What the worker was given.
        store: Where samples go.
        hand_in: Called with a finished position in the middle of a long chunk.

    Attributes:
        spans: The native view of the workers' chunks; None without native code.
        last: The last position that was finished since the last visit, or -1.
        has_run_all: Whether nobody took a part of the latest chunk away.
        init_failure: What ``worker_init_fn`` raised, or None.
    """

    def __init__(self, task: WorkerTask, store: Store, hand_in: Callable[[int], None]) -> None:
        self.spans: Any = None
        self.last = -1
        self.has_run_all = False
        self._task = task
        self._worker_id = task.worker_id
        self._commons = task.commons
        self._board = task.commons.board
        self._chunk_size = ChunkSize()
        self._batch_cost = BatchCost(is_fixed=task.commons.config.rules.fixed)
        self._store = store
        self._hand_in = hand_in
        self._dataset = by_index(task.dataset, task.commons.view)
        self.init_failure: Failure | None = None
        self._keys: tuple[int, list[Any]] = (-1, [])
        self._finished: list[tuple[int, int]] = []
        self._collated: tuple[int, int] | None = None
        self._collated_first = -1
        self._flags: Any = None
        self._loop: Any = None
        self._seeder: Seeder = NoSeeder()
        if native.MODULE is not None:
            self._flags = native.MODULE.Flags(self._board.status.array)
            self.spans = native.MODULE.Spans(self._board.span.array)

    def start(self) -> None:
        """Call ``worker_init_fn``; if it fails, every sample of this worker does."""
        try:
            if self._task.worker_init_fn is not None:
                self._task.worker_init_fn(self._worker_id)
        except CAUGHT as error:
            self._dataset = Unusable()
            self.init_failure = failure_of(
                error,
                doing=f"worker_init_fn of worker {self._worker_id}",
                position=None,
                index=None,
                worker_id=None,
            )
        if self._task.per_position_seeds:
            self._seeder = make_seeder()  # of the generators that there are now
        self._make_loop()
        self.tell_key()

    def start_beside(self, other: SampleRunner) -> None:
        """Go on with what another one of this worker's, for another board, has made ready."""
        # Not its dataset: what a stream yielded lies in each board's own memory.
        self._seeder = other._seeder
        self._make_loop()

    def tell_key(self) -> None:
        """From now on it is this one that makes samples."""
        tell_key(self._key_now)

    def _make_loop(self) -> None:
        generators = getattr(self._seeder, "generators", None)
        if native.MODULE is None or (generators is None and self._task.per_position_seeds):
            # The Python loop takes a sample at a time.
            self._flags = self.spans = None
            return
        board = self._board
        columns = ("status", "span", "started", "current", "key", "row", "kind", "seconds")
        self._loop = native.MODULE.ChunkRunner(
            {name: getattr(board, name).array for name in columns},
            self._worker_id,
            Status.DONE,
            Kind.ROW,
            generators,
            random._inst,
        )

    def hand_over(self) -> int:
        """Let the others see what is finished. Holds the lock.

        Returns:
            The last finished position since the last time, or -1.
        """
        board, last = self._board, self.last
        for slot, status in self._finished:
            board.status.cells[slot] = status
        self._finished.clear()
        if self._collated is not None:
            first, end = self._collated
            board.assign(board.status, first, end, Status.DONE)
            self._collated = None
        self.last = -1
        return last

    def want(self) -> int:
        """How many of the next samples to claim: a millisecond of work, or a whole batch."""
        if self._loop is None:
            return 1
        chunk = self._chunk_size.next()
        if not self._store.has_row_batches:
            board, head = self._board, self._board.head
            home = board.home.cells[head[Head.CURSOR] & board.mask] & board.home_mask
            count: int = board.home_count.cells[home]
            may_be_whole = self._commons.config.rules.may_be_whole
            if count > chunk and may_be_whole and self._batch_cost.fits(count):
                return count
        return chunk

    def run(self, claim: Claim) -> None:
        """Run the samples of a claim, as far as nobody takes them away."""
        board, head = self._board, self._board.head
        home = board.home.cells[claim.first & board.mask]
        keys = self._keys_of(claim)
        rules = self._commons.config.rules
        count = board.home_count.cells[home & board.home_mask]
        # A last batch of one may yet become part of another, where batches are free.
        is_single = count == 1 and (rules.fixed or rules.batch_size == 1)
        begun = visited = time.monotonic()
        if self._loop is None:
            self._run_sample(claim.first, keys, is_single)
            self._chunk_size.observe(1, time.monotonic() - visited)
            return
        rows = None if is_single else self._store.native_rows(home)
        # A whole batch of cheap samples that are not rows is collated here, at once.
        is_whole = claim.count == count > 1 and not self._store.has_row_batches
        is_whole = is_whole and (rules.fixed or count == rules.batch_size) and rules.may_be_whole
        held: list[tuple[int, Any]] = []
        base_seed, epoch = head[Head.BASE_SEED], board.home_epoch.cells[home & board.home_mask]
        start = board.start_of(claim.first)
        longest_s = patience_with_batch_s(count)
        done = in_all = 0
        self.has_run_all = False
        while True:
            try:
                why, position, sample = self._loop.run(
                    self._dataset, claim.first, base_seed, epoch, start, visited, VISIT_S, keys,
                    None if is_whole else rows,
                )  # fmt: skip
            except CAUGHT as error:
                position, sample, why = board.current.cells[self._worker_id], None, _RAISED
                self._put_failure(position, self._key(position, keys), error)
                self._publish(position, Status.FAILED)
                is_whole = False
            done += self._loop.num_done
            in_all += self._loop.num_done
            if why in (_EXHAUSTED, _VISIT) and self._loop.num_done:
                self.last = position
            if why == _EXHAUSTED:
                break
            if why == _UNWRITTEN and is_whole:
                held.append((position, sample))
            elif why == _UNWRITTEN:
                self._put_and_publish(position, sample, keys, is_single)
                if rows is None and not is_single:
                    rows = self._store.native_rows(home)
            del sample
            ended = self._loop.ended
            if is_whole and ended - begun < longest_s and not head[Head.STOP]:
                continue
            if ended - visited > VISIT_S:
                # Hand in and look around; what is left of the chunk is still ours,
                # unless somebody takes it.
                is_whole = False
                self._put_all(held, keys)
                self._chunk_size.observe(done, ended - visited)
                visited, done = ended, 0
                self._hand_in(self.last)
        if is_whole and len(held) == count:
            self._note_collating()
            self._put_collated(claim.first, count, [sample for _, sample in held])
        else:
            self._put_all(held, keys)
        self._chunk_size.observe(done, time.monotonic() - visited)
        self.has_run_all = in_all == claim.count
        if self.has_run_all and not self._store.has_row_batches:
            times = board.run(board.seconds, claim.first, claim.first + claim.count)
            self._batch_cost.observe(times)

    def collate(self, first: int, samples: Any) -> Any:
        """Call ``collate_fn``, with generators seeded from the batch's first position."""
        self._seed(first, collate_position(first - self._board.start_of(first)))
        self._collated_first = first
        try:
            return self._task.collate_fn(samples)
        finally:
            self._collated_first = -1

    def collate_failure(self, error: BaseException, positions: list[int]) -> Failure:
        """Describe what ``collate_fn`` of a batch raised."""
        return failure_of(
            error,
            doing=collating(positions, self._board.start_of(positions[0])),
            position=None,
            index=None,
            worker_id=self._worker_id,
        )

    def _put_all(self, held: list[tuple[int, Any]], keys: list[Any] | None) -> None:
        """Store samples that were to be collated at once one by one."""
        for position, sample in held:
            self._put_and_publish(position, sample, keys, is_single=False)
        held.clear()

    def _put_collated(self, first: int, count: int, samples: Any) -> None:
        """Collate a whole home batch; if that fails, the failure takes its place."""
        positions = range(first, first + count)
        try:
            content = payload.dump(self.collate(first, samples))
            self._store.put_blob(first, content, num_samples=count)
        except CAUGHT as error:
            # Not collated again, with others say: it may have changed its samples.
            self._put_report(first, self.collate_failure(error, list(positions)))
        self._note_collated(first, count)

    def _note_collated(self, first: int, count: int) -> None:
        self._board.assign(self._board.kind, first, first + count, Kind.COLLATED)
        self._collated = (first, first + count)
        self.last = first

    def _note_collating(self) -> None:
        """Say so on the board: if this worker dies now, no sample is to blame."""
        self._board.started.cells[self._worker_id] = time.monotonic()
        self._board.running.cells[self._worker_id] = Running.COLLATE

    def _run_sample(self, position: int, keys: list[Any] | None, is_single: bool) -> None:
        """Run one sample in Python: the twin of the native loop."""
        board = self._board
        begun = time.monotonic()
        board.current.cells[self._worker_id] = position
        board.started.cells[self._worker_id] = begun
        key = self._key(position, keys)
        self._seed(position, position - board.start_of(position))
        try:
            sample = self._dataset[key]
        except CAUGHT as error:
            self._put_failure(position, key, error)
            self._publish(position, Status.FAILED)
            return
        finally:
            board.seconds.cells[position & board.mask] = time.monotonic() - begun
        self._put_and_publish(position, sample, keys, is_single, begun)

    def _seed(self, position: int, seed_position: int) -> None:
        """Seed the generators as for ``seed_position`` of the epoch that holds ``position``."""
        self._seeder.seed(*self._base_of(position), seed_position)

    def _key_now(self) -> int:
        """The key of the sample, or the batch, that is being made."""
        is_batch = self._collated_first >= 0
        position = self._collated_first if is_batch else self._position_now()
        rank = position - self._board.start_of(position)
        return sample_key(*self._base_of(position), collate_position(rank) if is_batch else rank)

    def _position_now(self) -> int:
        return int(self._board.current.cells[self._worker_id])

    def _base_of(self, position: int) -> tuple[int, int]:
        """The base seed, and the epoch that holds ``position``."""
        board = self._board
        home = board.home.cells[position & board.mask] & board.home_mask
        return int(board.head[Head.BASE_SEED]), int(board.home_epoch.cells[home])

    def _key(self, position: int, keys: list[Any] | None) -> Any:
        """The dataset's index at a position."""
        slot = position & self._board.mask
        return self._board.key.cells[slot] if keys is None else keys[self._board.row.cells[slot]]

    def _put_and_publish(
        self,
        position: int,
        sample: Any,
        keys: list[Any] | None,
        is_single: bool,
        begun: float | None = None,
    ) -> None:
        """Store a sample the general way; one that cannot be stored has failed.

        If it began at ``begun``, writing its row belongs to its time, as in the native loop.
        """
        status = Status.DONE
        try:
            if is_single:
                self._put_batch_of_one(position, sample)
            else:
                slot, board = position & self._board.mask, self._board
                kind = board.kind.cells[slot] = self._store.put_sample(position, sample)
                if kind == Kind.ROW and begun is not None:
                    board.seconds.cells[slot] = time.monotonic() - begun
        except CAUGHT as error:
            self._put_failure(position, self._key(position, keys), error)
            status = Status.FAILED
        self._publish(position, status)

    def _publish(self, position: int, status: int) -> None:
        """Let the others see a finished sample."""
        slot = position & self._board.mask
        self.last = position
        if self._flags is None:
            # Without native code only the lock orders memory between processes.
            self._finished.append((slot, status))
        else:
            self._flags.publish(slot, status)

    def _put_batch_of_one(self, position: int, sample: Any) -> None:
        """Collate here and now: the whole batch is in this worker's hands."""
        self._note_collating()
        batch = self.collate(position, [sample] if self._task.auto_collation else sample)
        self._store.put_blob(position, payload.dump(batch))
        self._board.kind.cells[position & self._board.mask] = Kind.COLLATED

    def _put_failure(self, position: int, key: Any, error: BaseException) -> None:
        board = self._board
        slot = position & board.mask
        if isinstance(error, InitError) and self.init_failure is not None:
            failure = self.init_failure
        else:
            failure = failure_of(
                error,
                doing="loading the sample",
                position=position - board.start_of(position),
                index=key,
                worker_id=self._worker_id,
            )
        self._put_report(position, failure)
        board.kind.cells[slot] = Kind.ERROR

    def _put_report(self, position: int, failure: Failure) -> None:
        """Store a failure, if need be without the exception itself."""
        for report in (failure, failure.shortened()):
            try:
                self._store.put_blob(position, payload.dump(report), over_budget=True)
                return
            except (BufferFullError, SharedMemoryError) as error:
                full = error
        raise full

    def _keys_of(self, claim: Claim) -> list[Any] | None:
        """The home batch's dataset keys, where they are not plain ints."""
        board = self._board
        home = board.home.cells[claim.first & board.mask]
        block = board.home_keys.cells[home & board.home_mask]
        if block < 0:
            return None
        if self._keys[0] != home:
            view = self._commons.view(block, board.block_bytes.cells[block])
            self._keys = (home, pickle.loads(view))
        return self._keys[1]
