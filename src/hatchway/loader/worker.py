"""A worker process: takes samples from the schedule, stores them, collates batches."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import signal
import time
from multiprocessing import parent_process
from typing import Any

import numpy as np
import torch
from torch.utils.data._utils import worker as torch_worker

from hatchway.loader import native, payload
from hatchway.loader.admission import VISIT_S, Admission
from hatchway.loader.board import Head, Kind, Outgoing, Running, Status
from hatchway.loader.cost import ChunkSize
from hatchway.loader.failure import Failure, failure_of
from hatchway.loader.schedule import Claim
from hatchway.loader.seeding import NoSeeder, Seeder, make_seeder
from hatchway.loader.shared import wait_readable
from hatchway.loader.store import Store, TrainingProcessGone
from hatchway.loader.task import WorkerTask

# Why the native loop came back; see native/loader/chunk.hpp.
_EXHAUSTED, _UNWRITTEN, _VISIT, _RAISED = range(4)


def main(task: WorkerTask) -> None:
    """Entry point of a worker process."""
    # The training process gets the same Ctrl-C and stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(AttributeError):
        torch.multiprocessing._set_thread_name(f"hatchway-{task.worker_id}")
    torch.set_num_threads(1)
    seed = task.base_seed + task.worker_id
    random.seed(seed)
    torch.manual_seed(seed)
    np.random.seed(torch_worker._generate_state(task.base_seed, task.worker_id))
    torch_worker._worker_info = torch_worker.WorkerInfo(
        id=task.worker_id, num_workers=task.num_workers, seed=seed, dataset=task.dataset
    )
    Worker(task).run()


class Worker:
    """The loop of one worker process."""

    def __init__(self, task: WorkerTask) -> None:
        self._task = task
        self._id = task.worker_id
        self._commons = task.commons
        self._board = task.commons.board
        self._visit = task.commons.locked(task.worker_id)
        self._bell = task.commons.worker_bells[task.worker_id]
        self._store = Store(task.commons, task.worker_id, rows=task.rows, wait=self._sleep)
        self._chunk_size = ChunkSize()
        self._init_failure: Failure | None = None
        self._keys: tuple[int, list[Any]] = (-1, [])
        self._finished: list[tuple[int, int]] = []
        self._last = -1
        self._admission = Admission(task.commons, task.worker_id, None)
        parent = parent_process()
        self._parent_alive = _watch(parent.pid if parent else None, parent)
        self._dataset = task.dataset
        self._seeder: Seeder = NoSeeder()
        self._flags: Any = None
        self._spans: Any = None
        self._runner: Any = None

    def run(self) -> None:
        """Work until told to stop, or until the training process is gone."""
        with contextlib.suppress(TrainingProcessGone):
            self._start()
            while True:
                work = self._next_work()
                if isinstance(work, Claim):
                    self._run_chunk(work)
                elif work is None:
                    if not self._sleep():
                        return
                elif work >= 0:
                    self._collate(work)
                else:
                    return

    def _start(self) -> None:
        """Prepare the seeder and the native loop, and call ``worker_init_fn``."""
        task, board = self._task, self._board
        if task.per_position_seeds:
            self._seeder = make_seeder()
        generators = getattr(self._seeder, "generators", None)
        if native.MODULE is not None and (generators or not task.per_position_seeds):
            columns = ("status", "span", "started", "current", "key", "row", "kind", "seconds")
            self._flags = native.MODULE.Flags(board.status.array)
            self._spans = native.MODULE.Spans(board.span.array)
            self._admission = Admission(self._commons, self._id, self._spans)
            self._runner = native.MODULE.ChunkRunner(
                {name: getattr(board, name).array for name in columns},
                self._id,
                Status.DONE,
                Kind.ROW,
                generators,
                random._inst,
            )
        if task.worker_init_fn is not None:
            try:
                task.worker_init_fn(self._id)
            except Exception as error:
                self._dataset = _Unusable()
                self._init_failure = failure_of(
                    error,
                    doing=f"worker_init_fn of worker {self._id}",
                    position=None,
                    index=None,
                    worker_id=None,
                )

    def _next_work(self) -> Claim | int | None:
        """Visit the board: hand in, make batches, take work.

        Returns:
            A claim of samples, the slot of a batch to collate, -1 to stop, or
            None when there is nothing to do.
        """
        board, commons = self._board, self._commons
        head, me = board.head, self._id
        work: Claim | int | None = None
        with self._visit:
            for slot, status in self._finished:
                board.status.cells[slot] = status
            self._finished.clear()
            if self._last >= 0:
                board.started.cells[me] = 0.0
                commons.delivery.compose(self._last)
                self._last = -1
            if head[Head.STOP]:
                return -1
            if self._store.has_lent:
                self._store.take_back()
            ring = head[Head.WAITING] == 2 or (head[Head.WAITING] and commons.delivery.is_ready())
            out = commons.delivery.claim_collate(me)
            if out >= 0:
                work = out
                board.running.cells[me] = Running.COLLATE
            elif self._admission.has_seat():
                work = self._claim()
            if work is None:
                board.running.cells[me] = Running.NOTHING
                board.parked.cells[me] = 1
            if ring:
                head[Head.WAITING] = 0
        if ring:
            commons.bell.ring()
        if work is None and head[Head.WAITING]:
            commons.wake_for_memory()  # nobody else may be left to free some
        return work

    def _claim(self) -> Claim | None:
        board, commons, me = self._board, self._commons, self._id
        admission = self._admission
        want = 1
        if self._spans is not None:
            want = self._chunk_size.next()
            admission.free_stuck_chunks()
        claim = commons.schedule.claim(me, want, memory_left=admission.memory_left(want))
        if claim is None:
            if self._spans is not None and admission.chunks_wait():
                admission.look_again_s = VISIT_S
            return None
        if self._task.rows:
            self._store.prepare_rows(board.home.cells[claim.first & board.mask])
        board.running.cells[me] = Running.SAMPLE
        board.current.cells[me] = claim.first
        board.started.cells[me] = time.monotonic()
        if self._spans is not None:
            board.chunk_first.cells[me] = claim.first
            self._spans.set(me, 0, claim.count)
        return claim

    def _run_chunk(self, claim: Claim) -> None:
        """Run the samples of a claim, as far as nobody takes them away."""
        board = self._board
        home = board.home.cells[claim.first & board.mask]
        keys = self._keys_of(claim)
        rules = self._commons.config.rules
        # A last batch of one may yet become part of another, where batches are free.
        is_single = (rules.fixed or rules.batch_size == 1) and (
            board.home_count.cells[home & board.home_mask] == 1
        )
        visited = time.monotonic()
        if self._runner is None:
            self._run_sample(claim.first, keys, is_single)
            self._chunk_size.observe(1, time.monotonic() - visited)
            return
        head, runner = board.head, self._runner
        base_seed, epoch = head[Head.BASE_SEED], head[Head.EPOCH]
        epoch_start = head[Head.EPOCH_START]
        done = 0
        rows = None if is_single else self._store.native_rows(home)
        while True:
            try:
                why, position, sample = runner.run(
                    self._dataset, claim.first, base_seed, epoch, epoch_start, visited, VISIT_S,
                    keys, rows,
                )  # fmt: skip
            except (Exception, SystemExit) as error:
                position, sample, why = board.current.cells[self._id], None, _RAISED
                self._put_failure(position, self._key(position, keys), error)
                self._publish(position, Status.FAILED)
            done += runner.num_done
            if runner.num_done:
                self._last = position
            if why == _EXHAUSTED:
                break
            if why == _UNWRITTEN:
                self._put_and_publish(position, sample, keys, is_single)
                del sample
                if rows is None and not is_single:
                    rows = self._store.native_rows(home)
            ended = runner.ended
            if ended - visited > VISIT_S:
                # Hand in and look around; what is left of the chunk is still ours,
                # unless somebody takes it.
                self._chunk_size.observe(done, ended - visited)
                visited, done = ended, 0
                self._hand_in()
        self._chunk_size.observe(done, time.monotonic() - visited)

    def _run_sample(self, position: int, keys: list[Any] | None, is_single: bool) -> None:
        """Run one sample in Python: the twin of the native loop."""
        board, head = self._board, self._board.head
        begun = time.monotonic()
        board.current.cells[self._id] = position
        board.started.cells[self._id] = begun
        key = self._key(position, keys)
        self._seeder.seed(head[Head.BASE_SEED], head[Head.EPOCH], position - head[Head.EPOCH_START])
        try:
            sample = self._dataset[key]
        except (Exception, SystemExit) as error:
            self._put_failure(position, key, error)
            self._publish(position, Status.FAILED)
            return
        finally:
            board.seconds.cells[position & board.mask] = time.monotonic() - begun
        self._put_and_publish(position, sample, keys, is_single)

    def _key(self, position: int, keys: list[Any] | None) -> Any:
        """The dataset's index at a position."""
        slot = position & self._board.mask
        return self._board.key.cells[slot] if keys is None else keys[self._board.row.cells[slot]]

    def _put_and_publish(
        self, position: int, sample: Any, keys: list[Any] | None, is_single: bool
    ) -> None:
        """Store a sample the general way; one that cannot be stored has failed."""
        status = Status.DONE
        try:
            if is_single:
                self._put_batch_of_one(position, sample)
            else:
                kind = self._store.put_sample(position, sample)
                self._board.kind.cells[position & self._board.mask] = kind
        except (Exception, SystemExit) as error:
            self._put_failure(position, self._key(position, keys), error)
            status = Status.FAILED
        self._publish(position, status)

    def _publish(self, position: int, status: int) -> None:
        """Let the others see a finished sample."""
        slot = position & self._board.mask
        self._last = position
        if self._flags is None:
            # Without native code only the lock orders memory between processes.
            self._finished.append((slot, status))
        else:
            self._flags.publish(slot, status)

    def _hand_in(self) -> None:
        """Let batches be made of what is finished, in the middle of a chunk."""
        board, commons = self._board, self._commons
        head = board.head
        with self._visit:
            commons.delivery.compose(self._last)
            ring = head[Head.WAITING] and commons.delivery.is_ready()
            if ring:
                head[Head.WAITING] = 0
        if ring:
            commons.bell.ring()

    def _put_batch_of_one(self, position: int, sample: Any) -> None:
        """Collate here and now: the whole batch is in this worker's hands."""
        collate = self._task.collate_fn
        batch = collate([sample] if self._task.auto_collation else sample)
        self._store.put_blob(position, payload.dump(batch))
        self._board.kind.cells[position & self._board.mask] = Kind.COLLATED

    def _put_failure(self, position: int, key: Any, error: BaseException) -> None:
        board = self._board
        slot = position & board.mask
        if isinstance(error, _InitError) and self._init_failure is not None:
            failure = self._init_failure
        else:
            failure = failure_of(
                error,
                doing="loading the sample",
                position=position - board.head[Head.EPOCH_START],
                index=key,
                worker_id=self._id,
            )
        self._store.put_blob(position, payload.dump(failure), over_budget=True)
        board.kind.cells[slot] = Kind.ERROR

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

    def _collate(self, slot: int) -> None:
        """Make an outgoing batch of stored samples."""
        board, commons, store, task = self._board, self._commons, self._store, self._task
        positions = commons.delivery.members(slot).tolist()
        kinds = board.kind.array[np.asarray(positions) & board.mask]
        kind = Kind.BLOB
        board.current.cells[self._id] = -1
        board.started.cells[self._id] = time.monotonic()
        try:
            if commons.config.rules.rows_are_batch and np.all(kinds == Kind.ROW):
                kind = Kind.ROW
                nbytes = store.gathered_bytes(len(positions))
                block = store.allocate(nbytes)
                board.running.cells[self._id] = Running.COLLATE
                store.gather(positions, block)
            else:
                content = payload.dump(task.collate_fn(store.load_samples(positions)))
                block, nbytes = self._write_blob(content)
                del content
        except (Exception, SystemExit) as error:
            first = board.head[Head.EPOCH_START]
            failure = failure_of(
                error,
                doing=f"collate_fn of positions {[p - first for p in positions]}",
                position=None,
                index=None,
                worker_id=self._id,
            )
            kind = Kind.ERROR
            block, nbytes = self._write_blob(payload.dump(failure), over_budget=True)
        with self._visit:
            store.lend_what_lives()
            if board.out_status.cells[slot] == Outgoing.COLLATING:
                commons.delivery.collated(slot, kind, block, nbytes)
        self._last = positions[-1]

    def _write_blob(
        self, content: payload.Payload, *, over_budget: bool = False
    ) -> tuple[int, int]:
        block = self._store.allocate(content.nbytes, over_budget=over_budget)
        self._board.running.cells[self._id] = Running.COLLATE
        content.write(self._commons.view(block, content.nbytes))
        return block, content.nbytes

    def _sleep(self) -> bool:
        """Sleep until the bell rings; False when the training process is gone."""
        parent: list[int] = [] if self._parent_alive is None else [self._parent_alive]
        timeout_s = self._admission.look_again_s
        if not parent:
            timeout_s = 5.0 if timeout_s is None else min(timeout_s, 5.0)
        readable = wait_readable([self._bell.fileno(), *parent], timeout_s)
        self._bell.silence()
        self._board.parked.cells[self._id] = 0
        if self._parent_alive in readable:
            return False
        return bool(parent) or os.getppid() != 1


class _InitError(Exception):
    """Stands for the failure of ``worker_init_fn``."""


class _Unusable:
    """Stands for the dataset of a worker whose ``worker_init_fn`` failed."""

    def __getitem__(self, key: Any) -> Any:
        raise _InitError


def _watch(pid: int | None, parent: Any) -> int | None:
    """A descriptor that becomes readable when the training process ends."""
    if pid is not None and hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            return os.pidfd_open(pid)
    return None if parent is None else parent.sentinel
