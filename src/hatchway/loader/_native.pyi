"""Kernels of hatchway.loader; each has a Python twin beside its caller."""

from typing import Any


class BoardKernel:
    """Turns on the board, in the common case."""

    def __init__(self, columns: dict[str, object], *, fixed: bool, in_order: bool, rows_are_batch: bool, batch_size: int, depth: int, max_displacement: int) -> None: ...

    def plan(self, keys: list[Any]) -> bool:
        """
        Plan a home batch of int keys; False, with nothing planned, for other keys.
        """

    def next_work(self, worker: int, last: int, has_run_all: bool, want: int, now_s: float, visit_s: float, most_bytes: int) -> int:
        """
        Hand in and claim up to ``want`` samples, from ``current`` of the worker on; how many, or 0 where the case is not the common one.
        """

    def compose(self, position: int, now_s: float) -> int:
        """
        Make every batch that can be made: 0, or 1 where one is held back for a running sample, or 2 where the case is not the common one.
        """

    def consume(self, first: int, end: int) -> int:
        """
        Forget a delivered home batch: 0, or 1 where the tail of home batches must be moved on, or 2 where the case is not the common one.
        """

    @staticmethod
    def constants() -> dict[str, int]:
        """The names and values that it shares with board.py and kernel.py."""

def abi_version() -> int:
    """Version of this module's interface."""

def copy(target: object, source: object) -> None:
    """Copy source to the beginning of target, past the caches."""

class Spans:
    """Unbegun parts [next, end) of the workers' chunks."""

    def __init__(self, buffer: object) -> None: ...

    def set(self, i: int, next: int, end: int) -> None: ...

    def take(self, i: int) -> int:
        """The next offset of span i, or -1."""

    def steal(self, i: int) -> tuple[int, int]:
        """Empty span i; return what was left."""

class Flags:
    """Bytes published with release order."""

    def __init__(self, buffer: object) -> None: ...

    def publish(self, i: int, value: int) -> None: ...

class Generators:
    """The global generators of this process."""

    def __init__(self, *, random_words: int, random_index: int, numpy_words: int, numpy_index: int, numpy_has_gauss: int, torch_words: int, torch_seed: int, torch_left: int, torch_next: int, torch_float_flag: int, torch_double_flag: int) -> None: ...

    def seed(self, base_seed: int, epoch: int, position: int) -> None: ...

class RowTarget:
    """Rows of a block that samples are written into."""

    def __init__(self, memory: object, description: tuple[Any, ...], exchange_api: object | None) -> None: ...

    def write(self, row: int, sample: object) -> bool:
        """Write a sample; False, with the row undefined, if it does not fit."""

class ChunkRunner:
    """The loop of a worker over the samples of a chunk."""

    def __init__(self, columns: dict[str, object], worker: int, done_status: int, row_kind: int, generators: object | None, python_random: object) -> None: ...

    def run(self, dataset: object, first: int, base_seed: int, epoch: int, epoch_start: int, visited: float, visit_s: float, keys: object | None, rows: object | None) -> tuple[int, int, Any]:
        """
        Run samples until the chunk is exhausted (0), one is not written (1), or it is time to visit the board (2); returns (why, position, sample or None).
        """

    @property
    def num_done(self) -> int:
        """Samples run by the last call."""

    @property
    def ended(self) -> float:
        """When the last of them ended, monotonic seconds."""
