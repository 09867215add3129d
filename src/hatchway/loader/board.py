"""The board: what every process of one loader knows, as columns of plain numbers.

Schedule and delivery are pure functions of the board. It lies in shared memory
in the live loader and in a ``bytearray`` in tests. Whoever changes it holds the
loader's lock, but for what has one writer: a worker writes ``block``, ``nbytes``,
``kind`` and ``seconds`` of a sample that it claimed, then its status, and what it
is doing (``running``, ``parked``, ``current``, ``started``); the training process
writes ``cut_s``, ``alive``, ``block_pinned``, ``STOP`` and ``HELD``. Whoever drops
the last view of a block marks it free. ``SAMPLE_BYTES`` and ``ROW_MISSES`` are hints,
which a race may leave a little too small.

The states below are plain integers: a comparison of an array with a member of an
``IntEnum`` costs six times as much.

Positions, home batches and outgoing batches live in rings: entry ``n`` has slot
``n & mask``. A *home batch* is what the batch sampler yielded; an *outgoing
batch* is what the training loop gets. They are the same unless ``order="ready"``
forms batches from whatever is finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Buffer = Any  # anything that exports a writable buffer


class Status:
    """Where a position stands; it only ever grows, but for a sample run again."""

    EMPTY: Final = 0
    PLANNED: Final = 1
    CLAIMED: Final = 2
    DONE: Final = 3
    FAILED: Final = 4
    TAKEN: Final = 5
    CONSUMED: Final = 6


class Kind:
    """Where the bytes of a sample or batch lie."""

    NONE: Final = 0
    ROW: Final = 1  # a row of the home batch's block; for a batch: the rows are the batch
    BLOB: Final = 2  # pickled, in a block of its own
    COLLATED: Final = 3  # a home batch collated by the worker that made all its samples
    ERROR: Final = 4  # a pickled failure, in a block of its own


class Outgoing:
    """Where an outgoing batch stands."""

    EMPTY: Final = 0
    COMPOSED: Final = 1
    COLLATING: Final = 2
    READY: Final = 3
    TAKEN: Final = 4


class Block:
    """The state of a block of the heap."""

    FREE: Final = 1
    USED: Final = 2
    PUNCHED: Final = 3  # its address range can be used again, its memory was given back
    RETIRED: Final = 4  # consumed, but a worker's code still looks at it


class Running:
    """What a worker is doing."""

    NOTHING: Final = 0
    SAMPLE: Final = 1
    COLLATE: Final = 2
    WAITING_FOR_MEMORY: Final = 3
    NAMES: Final = ("idle", "at a sample", "collating", "waiting for memory")


class Alive:
    """Whether a worker is there."""

    GONE: Final = 0
    HERE: Final = 1
    LEAVING: Final = 2  # asked to end once it has handed over what it is at
    STARTING: Final = 3  # until it is ready for its first sample, and says so itself
    GUEST: Final = 4  # another rank's, which may leave at any time


class Parked:
    """Whether a worker looks at the board by itself."""

    NO: Final = 0
    ASLEEP: Final = 1  # until it is rung
    ELSEWHERE: Final = 2  # found nothing here, and comes back from another rank's board


class Waiting:
    """What the training loop sleeps for."""

    NOTHING: Final = 0
    BATCH: Final = 1
    EPOCH_END: Final = 2  # the epoch is given up: for all samples that still run
    BATCH_OR_SLOW: Final = 3  # or until a running sample, which holds a batch back, is slow


class Head:
    """Scalars of the board."""

    HOLDER: Final = 0  # worker + 1 that holds the lock; left behind by a holder that died
    STOP: Final = 1
    WAITING: Final = 2
    EPOCH: Final = 3
    BASE_SEED: Final = 4
    EPOCH_START: Final = 5  # position numbers go on across epochs; this one has rank 0
    PUBLISHED: Final = 6
    CURSOR: Final = 7  # positions before it were claimed at least once
    TAIL: Final = 8  # positions before it are consumed
    NUM_RETRY: Final = 9  # an upper bound of planned positions before the cursor
    HOMES: Final = 10
    HOME_TAIL: Final = 11
    EXHAUSTED: Final = 12  # the sampler has no more for this epoch
    OUT_TAIL: Final = 13  # outgoing batches before it are delivered
    OUT_HEAD: Final = 14  # outgoing batches from it on do not exist yet
    ROWS: Final = 15  # 0: layout of rows unknown, 1: agreed, 2: given up
    ROW_MISSES: Final = 16
    ROW_BYTES: Final = 17
    NUM_BLOCKS: Final = 18
    BUMP: Final = 19  # heap offset after the last block
    RESIDENT: Final = 20  # bytes of all blocks whose memory is not given back
    PEAK: Final = 21
    SAMPLE_BYTES: Final = 22  # the largest sample seen
    SCHEMA_BYTES: Final = 23
    HELD: Final = 24  # bytes of batches that the training loop keeps
    NUM_SEATS: Final = 25  # workers that may be in the fast lane at once
    NUM_PROCESSES: Final = 26
    NUM_EARLY: Final = 27  # an upper bound of planned positions past the cursor with a lead
    HELD_OUT: Final = 28  # the last outgoing batch that ``max_displacement`` held back, plus 1
    END: Final = 29  # positions before it are of this epoch; later ones of the next
    HOME_END: Final = 30
    PLAN_EPOCH: Final = 31  # the epoch that is being planned: this one or the next
    PLAN_START: Final = 32
    SCRIPT_TURN: Final = 33  # the recorded batch that leaves next
    SCRIPT_KNOWN: Final = 34  # recorded batches before it are planned as a whole
    SCRIPT_END: Final = 35  # how many recorded batches there are; 0 where none are replayed


@dataclass(frozen=True)
class BoardShape:
    """Sizes of the board's tables; ring sizes are powers of two."""

    positions: int
    homes: int
    outgoing: int
    members: int
    workers: int
    blocks: int
    schema_bytes: int = 16384

    @property
    def words(self) -> int:
        """How many words a set of workers takes, a bit each."""
        return -(-self.workers // 64)

    def __post_init__(self) -> None:
        for name in ("positions", "homes", "outgoing"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value}")


def power_of_two(at_least: int) -> int:
    """The smallest power of two that is not smaller than ``at_least``."""
    return 1 << max(0, at_least - 1).bit_length()


class Column:
    """One column, as a NumPy array for runs and as a memoryview for single cells.

    A cell of a memoryview costs 40 ns to read, of an array 100.
    """

    __slots__ = ("array", "cells")

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.cells: Any = array.data


_TABLES: dict[str, dict[str, str]] = {
    "positions": {
        "status": "u1",
        "attempts": "u1",
        "kind": "u1",
        "worker": "i2",
        "row": "i4",
        "block": "i4",
        "key": "i8",
        "home": "i8",
        "nbytes": "i8",
        "seconds": "f4",
        "cost": "f4",
        "lead": "i4",
        "turn": "i4",
    },
    "homes": {
        "home_count": "i4",
        "home_block": "i4",
        "home_keys": "i4",
        "home_emitted": "u1",
        "home_first": "i8",
        "home_epoch": "i8",
        "home_start": "i8",
    },
    "outgoing": {
        "out_status": "u1",
        "out_kind": "u1",
        "out_attempts": "u1",
        "out_fixed": "u1",
        "out_worker": "i2",
        "out_count": "i4",
        "out_block": "i4",
        "out_first": "i8",
        "out_nbytes": "i8",
    },
    "workers": {
        "span": "u8",
        "chunk_first": "i8",
        "current": "i8",
        "started": "f8",
        "running": "u1",
        "parked": "u1",
        "alive": "u1",
    },
    "blocks": {
        "block_state": "u1",
        "block_owner": "i2",
        "block_pinned": "u1",
        "block_offset": "i8",
        "block_bytes": "i8",
    },
}


class Board:
    """Typed columns over one buffer of :meth:`nbytes` zeroed bytes."""

    head: Any
    cut_s: Any  # seconds from which a sample is slow; seconds worth waiting, or 0
    status: Column
    attempts: Column
    kind: Column
    worker: Column
    row: Column
    block: Column
    key: Column
    home: Column
    nbytes: Column
    seconds: Column
    cost: Column  # predicted seconds; 0 where nothing is known
    lead: Column  # how many positions before its turn a sample is to be started
    turn: Column  # the recorded batch that it leaves in; only while a record is replayed
    home_count: Column
    home_block: Column
    home_keys: Column
    home_emitted: Column
    home_first: Column
    home_epoch: Column
    home_start: Column  # the position of rank 0 of its epoch
    out_status: Column
    out_kind: Column
    out_attempts: Column
    out_fixed: Column
    out_worker: Column
    out_count: Column
    out_block: Column
    out_first: Column
    out_nbytes: Column
    span: Column
    chunk_first: Column
    current: Column
    started: Column
    running: Column
    parked: Column
    alive: Column
    block_state: Column
    block_owner: Column
    block_pinned: Column  # whether a device reads it directly; see ``Registration``
    block_lent: Column
    block_offset: Column
    block_bytes: Column

    def __init__(self, buffer: Buffer, shape: BoardShape) -> None:
        self.shape = shape
        self.mask = shape.positions - 1
        self.home_mask = shape.homes - 1
        self.out_mask = shape.outgoing - 1
        offset = 0
        for name, dtype, count in _columns(shape):
            array = np.frombuffer(buffer, dtype, count, offset)
            offset += _padded(array.nbytes)
            if name in ("head", "cut_s", "schema"):
                setattr(self, name, array.data)
            elif name == "members":
                self.members = array.reshape(shape.outgoing, shape.members)
            else:
                setattr(self, name, Column(array))

    schema: Any
    members: NDArray[np.int64]

    def columns(self) -> dict[str, Any]:
        """Every column by its name, as buffers for native code."""
        named = vars(self).items()
        columns = {name: one.array for name, one in named if isinstance(one, Column)}
        return {**columns, "head": self.head, "cut_s": self.cut_s, "members": self.members}

    @staticmethod
    def buffer_bytes(shape: BoardShape) -> int:
        """How many bytes a board of this shape takes."""
        return sum(_padded(np.dtype(dtype).itemsize * n) for _, dtype, n in _columns(shape))

    def slots(self, begin: int, end: int) -> list[slice]:
        """Slices of the position columns that hold [begin, end), in order."""
        if end <= begin:
            return []
        size = self.mask + 1
        low = begin & self.mask
        count = end - begin
        if low + count <= size:
            return [slice(low, low + count)]
        return [slice(low, size), slice(0, low + count - size)]

    def run(self, column: Column, begin: int, end: int) -> NDArray[Any]:
        """The cells of positions [begin, end): a view, or a copy across the seam."""
        parts = [column.array[part] for part in self.slots(begin, end)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else column.array[:0]

    def count(self, column: Column, begin: int, end: int, *values: int) -> int:
        """How many cells of [begin, end) have one of the values; of columns of bytes only."""
        found = 0
        for part in self.slots(begin, end):
            cells = column.cells[part].tobytes()
            for value in values:
                found += cells.count(value)
        return found

    def has_room(self, count: int) -> bool:
        """Whether a home batch of ``count`` positions fits into the rings.

        Slots are used again a home batch at a time: one sample of it that has not
        left keeps them all.
        """
        head, first = self.head, self.head[Head.PUBLISHED]
        needed = count
        if head[Head.HOME_TAIL] < head[Head.HOMES]:
            needed += first - self.home_first.cells[head[Head.HOME_TAIL] & self.home_mask]
        num_homes = head[Head.HOMES] - head[Head.HOME_TAIL]
        return bool(needed <= self.mask + 1 and num_homes <= self.home_mask)

    def start_of(self, position: int) -> int:
        """The position of rank 0 in the epoch of ``position``."""
        home = self.home.cells[position & self.mask] & self.home_mask
        return int(self.home_start.cells[home])

    def run_at(self, column: Column, positions: NDArray[np.int64]) -> NDArray[Any]:
        """The cells of the given positions, as a copy."""
        cells: NDArray[Any] = column.array[positions & self.mask]
        return cells

    def assign(self, column: Column, begin: int, end: int, value: Any) -> None:
        """Set the cells of positions [begin, end)."""
        for part in self.slots(begin, end):
            column.array[part] = value

    def write(self, column: Column, begin: int, values: NDArray[Any]) -> None:
        """Set the cells from position ``begin`` on, each to its own value."""
        taken = 0
        for part in self.slots(begin, begin + len(values)):
            size = part.stop - part.start
            column.array[part] = values[taken : taken + size]
            taken += size


def _columns(shape: BoardShape) -> list[tuple[str, str, int]]:
    columns = [("head", "i8", 64), ("cut_s", "f8", 2), ("schema", "u1", shape.schema_bytes)]
    for size, table in _TABLES.items():
        columns += [(name, dtype, getattr(shape, size)) for name, dtype in table.items()]
    columns.append(("block_lent", "u8", shape.blocks * shape.words))
    columns.append(("members", "i8", shape.outgoing * shape.members))
    return columns


def _padded(nbytes: int) -> int:
    return -(-nbytes // 64) * 64
