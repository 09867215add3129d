"""The native kernel, each turn compared with its Python twin on the same board."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hatchway.loader.board import Board, Running
from hatchway.loader.delivery import Delivery, DeliveryRules
from hatchway.loader.heap import Heap
from hatchway.loader.native import Turn
from hatchway.loader.retirement import Retirement
from hatchway.loader.schedule import Schedule


class Twins:
    """Stands in for a BoardKernel: runs it and its twin, and compares what they leave."""

    def __init__(
        self, kernel: Any, memory: Any, board: Board, heap: Heap, rules: DeliveryRules
    ) -> None:
        self._kernel = kernel
        self._memory = memoryview(memory)
        self._board = board
        self._schedule = Schedule(board, heap, None if rules.fixed else rules.batch_size)
        self._delivery = Delivery(board, heap, rules)
        self._retirement = Retirement(board, heap)
        self.num_compared = 0

    def plan(self, keys: list[Any]) -> bool:
        def twin() -> bool:
            self._schedule.publish(len(keys), np.array(keys, np.int64))
            return True

        return bool(self._compare(lambda: self._kernel.plan(keys), twin, uncommon=False))

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
        board = self._board

        def twin() -> int:
            board.span.cells[worker] = 0
            if last >= 0:
                board.started.cells[worker] = 0.0
                self._delivery.compose(last, now_s)
            claim = self._schedule.claim(worker, want)
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

        return int(self._compare(native, twin, uncommon=0))

    def compose(self, position: int, now_s: float) -> int:
        def twin() -> int:
            is_held_back = self._delivery.compose(position, now_s)
            return Turn.HELD_BACK if is_held_back else Turn.DONE

        def native() -> Any:
            return self._kernel.compose(position, now_s)

        return int(self._compare(native, twin, uncommon=Turn.UNCOMMON))

    def consume(self, first: int, end: int) -> int:
        def twin() -> int:
            self._retirement.consume(np.arange(first, end))
            return Turn.DONE

        def native() -> Any:
            turn = self._kernel.consume(first, end)
            if turn == Turn.BUT_HOMES:
                self._retirement.advance()
                return Turn.DONE
            return turn

        return int(self._compare(native, twin, uncommon=Turn.UNCOMMON))

    def _compare(self, native: Callable[[], Any], twin: Callable[[], Any], uncommon: Any) -> Any:
        before = bytes(self._memory)
        answer = native()
        after = bytes(self._memory)
        if answer == uncommon:
            return answer  # the twin goes on from what is done
        self._memory[:] = before
        assert twin() == answer, "the twin does something else"
        assert bytes(self._memory) == after, "the twin leaves another board"
        self.num_compared += 1
        return answer
