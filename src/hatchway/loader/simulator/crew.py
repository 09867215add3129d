"""The workers of a simulated Hatchway loader: their visits to the real board.

What a worker does next is decided by the same Schedule, Admission and Delivery as in
the live loader; only the time that its work takes is simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from hatchway.loader.admission import VISIT_S, Admission
from hatchway.loader.board import Alive, Head, Kind, Running, Status, Waiting
from hatchway.loader.commons import Commons
from hatchway.loader.cost import ChunkSize
from hatchway.loader.schedule import Claim
from hatchway.loader.simulator.clock import Act, Cores, Event, Timeline
from hatchway.loader.simulator.commons import ROW_BLOCK_BYTES
from hatchway.loader.simulator.setting import Costs


class Spans:
    """Unbegun parts of the workers' chunks. Twin: native/loader/spans.hpp, without atomics."""

    def __init__(self, commons: Commons) -> None:
        self._cells = commons.board.span.cells

    def set(self, worker: int, begin: int, end: int) -> None:
        """The part [begin, end) of a worker's chunk has not begun."""
        self._cells[worker] = begin << 32 | end

    def take(self, worker: int) -> int:
        """The next offset, or -1."""
        begin, end = self._read(worker)
        if begin == end:
            return -1
        self.set(worker, begin + 1, end)
        return begin

    def steal(self, worker: int) -> tuple[int, int]:
        """Take away what has not begun; return it."""
        begin, end = self._read(worker)
        self.set(worker, end, end)
        return begin, end

    def _read(self, worker: int) -> tuple[int, int]:
        cell = self._cells[worker]
        return cell >> 32, cell & 0xFFFFFFFF


class SimulatedWorker:
    """One worker: visits the board, runs samples, collates, sleeps.

    Args:
        commons: The loader's.
        worker_id: Its place on the board.
        timeline: The clock.
        cores: What its samples run on.
        times_s: Seconds of each sample, by the dataset's index.
        costs: What the loader itself takes.
        on_leave: Called when it has left, since it was asked to.
    """

    def __init__(
        self,
        commons: Commons,
        worker_id: int,
        timeline: Timeline,
        cores: Cores,
        times_s: Sequence[float],
        costs: Costs,
        on_leave: Act,
    ) -> None:
        self._commons = commons
        self._board = commons.board
        self._id = worker_id
        self._timeline = timeline
        self._cores = cores
        self._times_s = times_s
        self._costs = costs
        self._on_leave = on_leave
        self._admission = Admission(commons, worker_id)
        self._spans = self._admission.spans = Spans(commons)
        self._chunk_size = ChunkSize()
        self._nap: Event | None = None
        self._is_asleep = False
        self._claim = Claim(0, 0)
        self._visited_s = 0.0
        self._num_since_visit = self._num_run = 0

    def start(self) -> None:
        """The process is up; from now on its bell wakes it."""
        self._commons.worker_bells[self._id].on_ring = self._wake  # type: ignore[attr-defined]
        if self._board.alive.cells[self._id] == Alive.STARTING:
            self._board.alive.cells[self._id] = Alive.HERE
        self._visit()

    def _wake(self) -> None:
        if not self._is_asleep:
            return
        self._is_asleep = False
        if self._nap is not None:
            self._nap.cancel()
            self._nap = None
        self._timeline.after(0.0, self._visit)

    def _visit(self, last: int = -1) -> None:
        """Hand in, make batches, take work; see ``Worker`` for the live one."""
        board, delivery = self._board, self._commons.delivery
        now_s = self._timeline.now_s
        self._nap = None
        self._is_asleep = False
        board.parked.cells[self._id] = 0
        self._admission.end_chunk(is_whole=self._num_run == self._claim.count)
        holds_back = False
        if last >= 0:
            board.started.cells[self._id] = 0.0
            holds_back = delivery.compose(last, now_s)
        ring = self._commons.has_news(holds_back=holds_back)
        if board.alive.cells[self._id] == Alive.LEAVING:
            board.running.cells[self._id] = Running.NOTHING
            self._ring_if(ring)
            self._on_leave()
            return
        out = delivery.claim_collate(self._id)
        claim: Claim | None = None
        if out >= 0:
            board.running.cells[self._id] = Running.COLLATE
        elif self._admission.has_seat(now_s):
            claim = self._take_claim(now_s)
        if out < 0 and claim is None:
            board.running.cells[self._id] = Running.NOTHING
            board.parked.cells[self._id] = 1
        self._ring_if(ring)
        if out >= 0:
            self._collate(out)
        elif claim is not None:
            self._claim, self._num_run = claim, 0
            self._look_around()
            self._run_next()
        else:
            self._is_asleep = True
            self._claim, self._num_run = Claim(0, 0), 0
            if self._admission.look_again_s is not None:
                self._nap = self._timeline.after(self._admission.look_again_s, self._visit)

    def _take_claim(self, now_s: float) -> Claim | None:
        board, admission = self._board, self._admission
        admission.free_stuck_chunks(now_s)
        claim = admission.claim(self._chunk_size.next())
        if claim is None:
            if admission.chunks_wait():
                admission.look_again_s = VISIT_S
            return None
        self._prepare_rows(board.home.cells[claim.first & board.mask])
        board.running.cells[self._id] = Running.SAMPLE
        board.current.cells[self._id] = board.chunk_first.cells[self._id] = claim.first
        board.started.cells[self._id] = now_s
        self._spans.set(self._id, 0, claim.count)
        return claim

    def _prepare_rows(self, home: int) -> None:
        board, heap, slot = self._board, self._commons.heap, home & self._board.home_mask
        if board.home_block.cells[slot] < 0:
            board.home_block.cells[slot] = heap.allocate(ROW_BLOCK_BYTES, self._id)
            heap.adopt(board.home_block.cells[slot])

    def _look_around(self) -> None:
        self._visited_s, self._num_since_visit = self._timeline.now_s, 0

    def _run_next(self) -> None:
        """Begin the next sample of the chunk, or visit the board after its last one."""
        board = self._board
        offset = self._spans.take(self._id)
        now_s = self._timeline.now_s
        if offset < 0:
            self._chunk_size.observe(self._num_since_visit, now_s - self._visited_s)
            self._visit(board.current.cells[self._id])
            return
        position = self._claim.first + offset
        board.current.cells[self._id] = position
        board.started.cells[self._id] = now_s
        work_s = self._times_s[board.key.cells[position & board.mask]] + self._costs.sample_s
        self._cores.run(work_s, partial(self._finish_sample, position, now_s))

    def _finish_sample(self, position: int, begun_s: float) -> None:
        board, slot = self._board, position & self._board.mask
        now_s = self._timeline.now_s
        board.seconds.cells[slot] = now_s - begun_s
        board.kind.cells[slot] = Kind.ROW
        board.status.cells[slot] = Status.DONE
        self._num_run += 1
        self._num_since_visit += 1
        if now_s - self._visited_s > VISIT_S:
            self._chunk_size.observe(self._num_since_visit, now_s - self._visited_s)
            self._look_around()
            self._hand_in(position)
        self._run_next()

    def _hand_in(self, position: int) -> None:
        """Let batches be made in the middle of a chunk."""
        delivery = self._commons.delivery
        holds_back = delivery.compose(position, self._timeline.now_s)
        ring = self._commons.has_news(holds_back=holds_back)
        if delivery.has_to_collate():
            self._commons.wake_an_idle_worker()
        self._ring_if(ring)

    def _ring_if(self, ring: bool) -> None:
        if ring:
            self._board.head[Head.WAITING] = Waiting.NOTHING
            self._commons.bell.ring()

    def _collate(self, slot: int) -> None:
        """Put a batch together from rows of several home batches."""
        positions = self._commons.delivery.members(slot)
        board = self._board
        board.current.cells[self._id] = -1
        board.started.cells[self._id] = self._timeline.now_s
        seconds = self._costs.copy_s * len(positions)
        last = int(np.max(positions))

        def done() -> None:
            block = self._commons.heap.allocate(ROW_BLOCK_BYTES, self._id)
            self._commons.delivery.collated(slot, Kind.ROW, block, ROW_BLOCK_BYTES)
            self._claim, self._num_run = Claim(0, 0), 0
            self._visit(last)

        self._cores.run(seconds, done)
