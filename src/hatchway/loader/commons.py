"""What all processes of one loader have in common, and the way in: the lock."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

from hatchway.loader.board import Board, BoardShape, Head, Parked, Running, Waiting
from hatchway.loader.delivery import Delivery
from hatchway.loader.heap import ADDRESSES_PER_BYTE, Heap
from hatchway.loader.kernel import board_kernel
from hatchway.loader.lease import leasable, lease
from hatchway.loader.rules import DeliveryRules
from hatchway.loader.schedule import Schedule
from hatchway.loader.shared import Bell, ProcessLock, SharedMapping, ThreadLock

T = TypeVar("T", SharedMapping, ProcessLock, ThreadLock, Bell)

# Beyond the ids of workers, of the training process and of readers.
_NEWCOMER = 1 << 14


class CommonsConfig(NamedTuple):
    """Sizes and rules that hold for the life of the workers."""

    shape: BoardShape
    rules: DeliveryRules
    buffer_bytes: int


class Commons:
    """The board, the buffer and the bells; created by the training process.

    Picklable while a worker process is being started, with any start method.

    Args:
        config: Sizes and rules.
        has_threads: Whether the workers are threads of this process.
    """

    def __init__(self, config: CommonsConfig, *, has_threads: bool = False) -> None:
        board_bytes = Board.buffer_bytes(config.shape)
        num_pages = -(-config.buffer_bytes * ADDRESSES_PER_BYTE // mmap.PAGESIZE)
        with contextlib.ExitStack() as made:

            def keep(part: T) -> T:
                made.callback(part.close)
                return part

            board_mapping = keep(SharedMapping(board_bytes))
            board_mapping.reserve(0, board_bytes)
            mapping = keep(SharedMapping(num_pages * mmap.PAGESIZE))
            lock: ProcessLock | ThreadLock
            lock = keep(ThreadLock()) if has_threads else keep(ProcessLock())
            bells = [keep(Bell()) for _ in range(config.shape.workers + 1)]
            made.pop_all()  # nothing failed: they stay open
        self._open(config, board_mapping, mapping, lock, bells[-1], bells[:-1])

    def _open(
        self,
        config: CommonsConfig,
        board_mapping: SharedMapping,
        mapping: SharedMapping,
        lock: ProcessLock | ThreadLock,
        bell: Bell,
        worker_bells: list[Bell],
    ) -> None:
        self._parts = (config, board_mapping, mapping, lock, bell, worker_bells)
        self.config = config
        self.bell = bell
        self.worker_bells = worker_bells
        self.training_process = config.shape.workers  # its id beside the workers'
        self.newcomer = config.shape.workers + _NEWCOMER  # of a worker that has no id yet
        self._mapping = mapping
        self._lock = lock
        self.board = Board(board_mapping.memory, config.shape)
        self.heap = Heap(
            self.board,
            budget_bytes=config.buffer_bytes,
            address_bytes=mapping.nbytes,
            give_back=mapping.give_back,
            reserve=mapping.reserve if mapping.has_fixed_size else None,
        )
        rules = config.rules
        self.kernel = board_kernel(self.board, rules)
        self.schedule = Schedule(self.board, self.heap, None if rules.fixed else rules.batch_size)
        self.delivery = Delivery(self.board, self.heap, rules, self.kernel)

    @classmethod
    def of(
        cls,
        config: CommonsConfig,
        board_mapping: SharedMapping,
        mapping: SharedMapping,
        lock: ProcessLock | ThreadLock,
        bell: Bell,
        worker_bells: list[Bell],
    ) -> Commons:
        """What was made before, by its parts."""
        commons = cls.__new__(cls)
        commons._open(config, board_mapping, mapping, lock, bell, worker_bells)
        return commons

    @property
    def parts(self) -> tuple[Any, ...]:
        """What :meth:`of` takes."""
        return self._parts

    def __reduce__(self) -> tuple[Any, ...]:
        return Commons.of, self._parts

    def again(self) -> Commons:
        """The same, with caches of its own: for a thread."""
        return Commons.of(*self._parts)

    def let_go_of_lock(self) -> None:
        """Release the lock of threads if this one holds it: what it did was interrupted."""
        if isinstance(self._lock, ThreadLock):
            self._lock.let_go()

    def locked(self, who: int) -> Visit:
        """A context in which the board may be changed by process or thread ``who``."""
        return Visit(self, who)

    def view(self, block: int, nbytes: int) -> memoryview:
        """The first ``nbytes`` of a block, writable."""
        offset = self.board.block_offset.cells[block]
        return memoryview(self._mapping.memory)[offset : offset + nbytes]

    def populate(self, block: int) -> None:
        """Map a block that this process is about to write for the first time."""
        offset, nbytes = self.board.block_offset.cells[block], self.board.block_bytes.cells[block]
        self._mapping.populate(offset, nbytes)

    def leasable(self, block: int, nbytes: int) -> memoryview:
        """Like :meth:`view`, for :func:`lease_block`."""
        return leasable(self._mapping.memory, self.board.block_offset.cells[block], nbytes)

    def map_again(self) -> mmap.mmap:
        """The buffer at other addresses."""
        return self._mapping.map_again()

    def lease_all(self, on_release: Any) -> memoryview:
        """A view of the whole buffer; ``on_release`` runs when nothing looks at it any more."""
        return lease(self._mapping.memory, 0, self._mapping.nbytes, on_release)

    def wake_for_memory(self) -> None:
        """Wake the workers that wait for memory, if any do."""
        if Running.WAITING_FOR_MEMORY in bytes(self.board.running.cells):
            for worker, doing in enumerate(self.board.running.cells):
                if doing == Running.WAITING_FOR_MEMORY:
                    self.worker_bells[worker].ring()

    def wake(self, workers: Iterable[int], count: int) -> None:
        """Wake up to ``count`` of these workers that sleep. Holds the lock."""
        parked, running = self.board.parked.cells, self.board.running.cells
        for worker in workers:
            if count <= 0:
                return
            is_asleep = parked[worker] == Parked.ASLEEP
            if is_asleep and running[worker] != Running.WAITING_FOR_MEMORY:
                parked[worker] = 0
                self.worker_bells[worker].ring()
                count -= 1

    def has_news(self, *, holds_back: bool) -> bool:
        """Whether the training loop, if it sleeps, should look at the board. Holds the lock.

        Args:
            holds_back: Whether a batch waits for a running sample that is not slow yet.
        """
        waiting = self.board.head[Head.WAITING]
        if not waiting:
            return False
        return (holds_back and waiting == Waiting.BATCH) or self.delivery.is_ready()

    def count_workers(self) -> None:
        """Note how many workers there are, for everybody to see."""
        board = self.board
        board.head[Head.NUM_PROCESSES] = len(board.alive.cells) - bytes(board.alive.cells).count(0)

    def wake_an_idle_worker(self) -> None:
        """Wake one worker that sleeps for want of work, if one does. Holds the lock."""
        board = self.board
        for worker, parked in enumerate(board.parked.cells):
            if parked == Parked.ASLEEP and board.running.cells[worker] == Running.NOTHING:
                board.parked.cells[worker] = 0
                self.worker_bells[worker].ring()
                return

    def close(self) -> None:
        """Close every descriptor; memory stays while views of it live."""
        # Workers of other loaders, forked meanwhile, may keep the mapping: empty it.
        self.heap.give_back_free()
        self.let_go()

    def let_go(self) -> None:
        """Close every descriptor, and leave the memory to those who still use it."""
        _, board_mapping, mapping, lock, bell, worker_bells = self._parts
        for part in (board_mapping, mapping):
            part.close()
        lock.close()
        for each in (bell, *worker_bells):
            each.close()


class Visit:
    """Holds the lock; puts right what a holder that died had left half done."""

    __slots__ = ("_commons", "_head", "_who")

    def __init__(self, commons: Commons, who: int) -> None:
        self._commons = commons
        self._head = commons.board.head
        self._who = who

    def __enter__(self) -> None:
        self._commons._lock.__enter__()
        left_by = self._head[Head.HOLDER]
        self._head[Head.HOLDER] = self._who + 1
        if left_by:
            self._repair({left_by - 1})

    def __exit__(self, error_type: object, *_: object) -> None:
        if error_type is not None:
            self._repair(set())  # interrupted, by a signal's handler say, but alive
        self._head[Head.HOLDER] = 0
        self._commons._lock.__exit__()

    def _repair(self, dead: set[int]) -> None:
        delivery = self._commons.delivery
        delivery.repair()
        self._commons.heap.repair(delivery.referenced_blocks(), dead)
