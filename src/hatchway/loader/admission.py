"""Whether a worker may begin another sample: memory, the fast lane, stuck chunks."""

from __future__ import annotations

from typing import Any

import numpy as np

from hatchway.loader.board import Head, Running, Status
from hatchway.loader.commons import Commons
from hatchway.loader.schedule import Claim

# A worker visits the board at least this often, so that its finished samples
# are seen and what it claimed behind a slow sample can be taken by others.
VISIT_S = 0.002


class Admission:
    """One worker's view of what the others do. Every method holds the lock.

    Attributes:
        look_again_s: When a worker without work should look again, or None.
        most_bytes: How many bytes the samples that are ahead may take.
        spans: The native view of the workers' chunks; None without native code.
    """

    def __init__(self, commons: Commons, worker_id: int) -> None:
        self._commons = commons
        self._board = commons.board
        self._worker_id = worker_id
        self.spans: Any = None
        self.look_again_s: float | None = None
        # A quarter of the buffer is for batches that the training loop keeps. Of the rest
        # half stays free, for the samples of the next batch and for collating it.
        self.most_bytes = commons.heap.budget_bytes * 3 // 8

    def claim(self, want: int) -> Claim | None:
        """Up to ``want`` samples for this worker: a slow one early, or those whose turn it is."""
        schedule, head = self._commons.schedule, self._board.head
        if head[Head.NUM_EARLY] and not head[Head.NUM_RETRY]:
            position = schedule.next_early(self._worker_id)
            if position >= 0 and self.memory_left(1, position, early=True):
                return schedule.claim_early(self._worker_id, position)
        memory_left = self.memory_left(want, head[Head.CURSOR])
        return schedule.claim(self._worker_id, want, memory_left=memory_left)

    def memory_left(self, want: int, position: int, *, early: bool = False) -> bool:
        """Whether ``want`` samples from ``position`` on fit, with room for one batch to spare.

        Those that are started before their turn may take half of what there is.
        """
        board, heap = self._board, self._commons.heap
        head = board.head
        most_bytes = self.most_bytes // (2 if early else 1)
        home = board.home.cells[position & board.mask] & board.home_mask
        # A batch of rows gets its block at once; pickled samples get theirs one by one.
        needed = head[Head.ROW_BYTES] * board.home_count.cells[home]
        needed += head[Head.SAMPLE_BYTES] * (want + head[Head.NUM_PROCESSES])
        if head[Head.RESIDENT] + needed < most_bytes:
            return True
        return bool(heap.used_bytes() - head[Head.HELD] + needed < most_bytes)

    def has_seat(self, now_s: float) -> bool:
        """Whether the fast lane has room: slow samples give up their worker's seat."""
        board, head = self._board, self._board.head
        self.look_again_s = None
        if head[Head.NUM_PROCESSES] <= head[Head.NUM_SEATS]:
            return True
        since = now_s - board.started.array
        running = board.running.array == Running.SAMPLE
        running[self._worker_id] = False
        fast = running & (since <= board.cut_s[0])
        if int(fast.sum()) < head[Head.NUM_SEATS]:
            return True
        if self._commons.schedule.has_work():
            # Look again when the next of them has become slow.
            self.look_again_s = max(0.001, float(board.cut_s[0] - since[fast].max()))
        return False

    def free_stuck_chunks(self, now_s: float) -> None:
        """Take back what waits behind a slow sample in another worker's chunk."""
        board = self._board
        for worker, span in enumerate(board.span.cells):
            if (span >> 32) >= (span & 0xFFFFFFFF) or worker == self._worker_id:
                continue
            if now_s - board.started.cells[worker] > VISIT_S:
                begin, end = self.spans.steal(worker)
                if end > begin:
                    first = board.chunk_first.cells[worker] + begin
                    self._commons.schedule.give_up(first, end - begin)

    def end_chunk(self, *, is_whole: bool) -> None:
        """Plan again what a worker took from this one's chunk and, dying, did not give up.

        Args:
            is_whole: Whether this worker ran the whole chunk. If not, what is still
                claimed of it nobody will run.
        """
        board, me = self._board, self._worker_id
        end = board.span.cells[me] & 0xFFFFFFFF
        board.span.cells[me] = 0
        if is_whole or not end:
            return
        begin = max(board.chunk_first.cells[me], board.head[Head.TAIL])
        end += board.chunk_first.cells[me]
        lost = board.run(board.status, begin, end) == Status.CLAIMED
        if lost.any():
            lost &= board.run(board.worker, begin, end) == me
            for offset in np.flatnonzero(lost).tolist():
                self._commons.schedule.give_up(begin + offset, 1)

    def chunks_wait(self) -> bool:
        """Whether another worker has samples that it has not begun."""
        spans = self._board.span.array
        return bool(((spans >> np.uint64(32)) < (spans & np.uint64(0xFFFFFFFF))).any())
