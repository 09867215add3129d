"""The native kernel, each turn compared with its Python twin on the same board."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from hatchway.loader.admission import Admission
from hatchway.loader.board import Board, Head, Running, Waiting
from hatchway.loader.delivery import Delivery
from hatchway.loader.kernel import Composed, Consumed
from hatchway.loader.retirement import Retirement
from hatchway.loader.rules import DeliveryRules
from hatchway.loader.schedule import Schedule


class Twins:
    """Stands in for a BoardKernel: runs it and its twin, and compares what they leave.

    Attributes:
        compared: How often each turn was compared; not where it was left to the twin.
    """

    def __init__(self, kernel: Any, memory: Any, commons: Any, rules: DeliveryRules) -> None:
        board: Board = commons.board
        self.compared: Counter[str] = Counter()
        self._kernel = kernel
        self._memory = memoryview(memory)
        self._commons = commons
        self._board = board
        self._schedule = Schedule(board, commons.heap, None if rules.fixed else rules.batch_size)
        self._delivery = Delivery(board, commons.heap, rules)
        self._retirement = Retirement(board, commons.heap)

    def plan(self, keys: list[Any]) -> bool:
        def twin() -> bool:
            self._schedule.publish(len(keys), np.array(keys, np.int64))
            return True

        return bool(self._compare("plan", lambda: self._kernel.plan(keys), twin, left=False))

    def next_work(
        self,
        worker: int,
        last: int,
        has_run_all: bool,
        want: int,
        now_s: float,
        visit_s: float,
        most_bytes: int,
    ) -> int:
        board, delivery = self._board, self._delivery

        def twin() -> int:
            head, admission = board.head, Admission(self._commons, worker)
            assert not head[Head.STOP]
            assert head[Head.WAITING] != Waiting.EPOCH_END
            board.span.cells[worker] = 0
            if last >= 0:
                board.started.cells[worker] = 0.0
                is_held_back = delivery.compose(last, now_s)
                assert not (is_held_back and head[Head.WAITING] == Waiting.BATCH)
            assert not (head[Head.WAITING] and delivery.is_ready())
            assert not delivery.has_to_collate()
            assert admission.has_seat(now_s)
            claim = admission.claim(want)
            assert claim is not None
            board.running.cells[worker] = Running.SAMPLE
            board.current.cells[worker] = board.chunk_first.cells[worker] = claim.first
            board.started.cells[worker] = now_s
            board.span.cells[worker] = claim.count
            return claim.count

        def native() -> Any:
            return self._kernel.next_work(
                worker, last, has_run_all, want, now_s, visit_s, most_bytes
            )

        return int(self._compare("next_work", native, twin, left=0))

    def compose(self, position: int, now_s: float) -> int:
        def twin() -> int:
            is_held_back = self._delivery.compose(position, now_s)
            return Composed.HELD_BACK if is_held_back else Composed.ALL

        def native() -> Any:
            return self._kernel.compose(position, now_s)

        return int(self._compare("compose", native, twin, left=Composed.UNCOMMON))

    def consume(self, first: int, end: int) -> int:
        def twin() -> int:
            self._retirement.consume(np.arange(first, end))
            return Consumed.ALL

        def native() -> Any:
            consumed = self._kernel.consume(first, end)
            if consumed == Consumed.BUT_HOMES:
                self._retirement.advance()
                return Consumed.ALL
            return consumed

        return int(self._compare("consume", native, twin, left=Consumed.UNCOMMON))

    def _compare(
        self, turn: str, native: Callable[[], Any], twin: Callable[[], Any], left: Any
    ) -> Any:
        before = bytes(self._memory)
        answer = native()
        after = bytes(self._memory)
        if answer == left:
            return answer  # the twin goes on from what is done
        self._memory[:] = before
        assert twin() == answer, f"the twin of {turn} does something else"
        assert bytes(self._memory) == after, f"the twin of {turn} leaves another board"
        self.compared[turn] += 1
        return answer
