"""A worker process: takes samples from the schedule, stores them, collates batches."""

from __future__ import annotations

import contextlib
import os
import time

import numpy as np

from hatchway.loader import payload
from hatchway.loader.admission import VISIT_S, Admission
from hatchway.loader.board import Alive, Head, Kind, Outgoing, Running, Waiting
from hatchway.loader.failure import CAUGHT
from hatchway.loader.fetched import runner_of
from hatchway.loader.process import become, watch_parent
from hatchway.loader.schedule import Claim
from hatchway.loader.shared import wait_readable
from hatchway.loader.store import Store, TrainingProcessGone
from hatchway.loader.task import WorkerTask


def main(task: WorkerTask) -> None:
    """Entry point of a worker process."""
    prepare(task)
    Worker(task).run()


def prepare(task: WorkerTask) -> None:
    """Make this process a worker."""
    worker_id = task.worker_id
    become(f"hatchway-{worker_id}", worker_id, task.num_workers, task.base_seed, task.dataset)


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
        self._samples = runner_of(task, self._store, self._hand_in)
        self._admission = Admission(task.commons, task.worker_id)
        self._parent_alive: int | None = None
        self._watch_parent()

    def begin(self) -> None:
        """Make the dataset ready, and say so."""
        self._samples.start()
        if self._board.alive.cells[self._id] == Alive.STARTING:
            self._board.alive.cells[self._id] = Alive.HERE
        if self._task.says_when_ready:
            self._commons.bell.ring()
        self._admission.spans = self._samples.spans

    def run(self) -> None:
        """Work until told to stop, or until the training process is gone."""
        with contextlib.suppress(TrainingProcessGone):
            self.begin()
            while True:
                work = self._next_work()
                if work is None:
                    if not self._sleep():
                        return
                elif work == -1:
                    return
                else:
                    self._do(work)

    def _do(self, work: Claim | int) -> None:
        """Run the samples of a claim, or collate a batch."""
        if isinstance(work, Claim):
            self._samples.run(work)
        else:
            self._collate(work)

    def _next_work(self) -> Claim | int | None:
        """Visit the board: hand in, make batches, take work.

        Returns:
            A claim of samples, the slot of a batch to collate, -1 to stop, or
            None when there is nothing to do.
        """
        board, commons = self._board, self._commons
        head, me = board.head, self._id
        work: Claim | int | None = None
        holds_back = False
        with self._visit:
            last = self._samples.hand_over()
            claim = self._next_work_natively(last)
            if claim is not None:
                return claim
            self._admission.end_chunk(is_whole=self._samples.has_run_all)
            if last >= 0:
                board.started.cells[me] = 0.0
                holds_back = commons.delivery.compose(last, time.monotonic())
            if head[Head.STOP]:
                return -1
            if self._store.has_lent:
                self._store.take_back()
            ring = head[Head.WAITING] == Waiting.EPOCH_END or commons.has_news(
                holds_back=holds_back
            )
            is_leaving = self._is_leaving()
            out = -1 if is_leaving else commons.delivery.claim_collate(me)
            if is_leaving:
                self._leave()
                work = -1 if self._may_leave() else None
            elif out >= 0:
                work = out
                board.running.cells[me] = Running.COLLATE
            elif self._admission.has_seat(time.monotonic()):
                work = self._claim()
            if work is None:
                board.running.cells[me] = Running.NOTHING
                board.parked.cells[me] = 1
            if ring:
                head[Head.WAITING] = Waiting.NOTHING
        if ring:
            commons.bell.ring()
        if (work is None or is_leaving) and head[Head.WAITING]:
            commons.wake_for_memory()  # nobody else may be left to free some
        return work

    def _may_leave(self) -> bool:
        """Whether this worker may end: the views of a process end with it."""
        return True

    def _is_leaving(self) -> bool:
        """Whether it is to take nothing more."""
        return bool(self._board.alive.cells[self._id] == Alive.LEAVING)

    def _leave(self) -> None:
        """Have nothing to do with the board any more. Holds the lock."""
        commons = self._commons
        self._board.running.cells[self._id] = Running.NOTHING
        if commons.delivery.has_to_collate() or commons.schedule.has_work():
            commons.wake_an_idle_worker()  # this one may have been woken for it

    def _next_work_natively(self, last: int) -> Claim | None:
        """The native twin of the rest of a visit, for the common case; None in others."""
        samples, admission, me = self._samples, self._admission, self._id
        kernel = self._commons.kernel
        if kernel is None or samples.spans is None or self._store.has_lent:
            return None
        count = kernel.next_work(
            me, last, samples.has_run_all, samples.want(), time.monotonic(), VISIT_S,
            admission.most_bytes,
        )  # fmt: skip
        if not count:
            return None
        admission.look_again_s = None
        return Claim(self._board.current.cells[me], count)

    def _claim(self) -> Claim | None:
        board, admission, me = self._board, self._admission, self._id
        want = self._samples.want()
        if self._samples.spans is not None:
            admission.free_stuck_chunks(time.monotonic())
        claim = admission.claim(want)
        if claim is None:
            if self._samples.spans is not None and admission.chunks_wait():
                admission.look_again_s = VISIT_S
            return None
        if self._task.rows:
            self._store.prepare_rows(board.home.cells[claim.first & board.mask])
        board.running.cells[me] = Running.SAMPLE
        board.current.cells[me] = claim.first
        board.started.cells[me] = time.monotonic()
        if self._samples.spans is not None:
            board.chunk_first.cells[me] = claim.first
            self._samples.spans.set(me, 0, claim.count)
        return claim

    def _hand_in(self, position: int) -> None:
        """Let batches be made of what is finished, in the middle of a chunk."""
        board, commons = self._board, self._commons
        head = board.head
        with self._visit:
            holds_back = commons.delivery.compose(position, time.monotonic())
            ring = commons.has_news(holds_back=holds_back)
            if ring:
                head[Head.WAITING] = Waiting.NOTHING
            if commons.delivery.has_to_collate():
                commons.wake_an_idle_worker()
        if ring:
            commons.bell.ring()

    def _collate(self, slot: int) -> None:
        """Make an outgoing batch of stored samples."""
        board, commons, store = self._board, self._commons, self._store
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
                samples = store.load_samples(positions)
                content = payload.dump(self._samples.collate(positions[0], samples))
                del samples
                block, nbytes = self._write_blob(content)
                del content
        except CAUGHT as error:
            failure = self._samples.collate_failure(error, positions)
            kind = Kind.ERROR
            block, nbytes = self._write_blob(payload.dump(failure), over_budget=True)
        with self._visit:
            store.lend_what_lives()
            if board.out_status.cells[slot] == Outgoing.COLLATING:
                commons.delivery.collated(slot, kind, block, nbytes)
        self._samples.last = positions[-1]

    def _write_blob(
        self, content: payload.Payload, *, over_budget: bool = False
    ) -> tuple[int, int]:
        block = self._store.allocate(content.nbytes, over_budget=over_budget)
        self._board.running.cells[self._id] = Running.COLLATE
        content.write(self._store.writable(block, content.nbytes))
        return block, content.nbytes

    def _watch_parent(self) -> None:
        """Notice when the training process ends."""
        self._parent_alive = watch_parent()

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
