"""Where a worker puts finished samples, and where it finds them again to collate."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import torch

from hatchway.base.units import format_bytes
from hatchway.loader import native, payload
from hatchway.loader.board import Alive, Head, Kind, Outgoing, Running, Waiting
from hatchway.loader.commons import Commons
from hatchway.loader.copying import copy_bytes
from hatchway.loader.errors import BufferFullError, SharedMemoryError
from hatchway.loader.rows import RowLayout, RowWriter, layout_of

_GIVE_UP_ROWS = 8
# Smaller blocks are not worth a system call.
_LEAST_POPULATED = 1 << 16
_UNKNOWN, _AGREED, _GIVEN_UP = range(3)


class TrainingProcessGone(BaseException):
    """Nobody will take what this worker makes."""


class Store:
    """One worker's access to samples in shared memory.

    Args:
        commons: The board and the buffer.
        worker_id: Who writes.
        rows: Whether samples of a fixed structure become rows.
        wait: Sleeps until memory may be free; False when the worker must stop.
    """

    def __init__(
        self, commons: Commons, worker_id: int, *, rows: bool, wait: Callable[[], bool]
    ) -> None:
        self._commons = commons
        self._board = commons.board
        self._visit = commons.locked(worker_id)
        self._worker_id = worker_id
        self._rows = rows
        self._wait = wait
        self._layout: RowLayout | None = None
        self._writers: dict[int, tuple[tuple[int, int], RowWriter]] = {}
        self._targets: dict[int, tuple[tuple[int, int], Any]] = {}
        self._loans: list[_Loan] = []
        self._mapped: dict[int, int] = {}

    def put_sample(self, position: int, sample: object) -> int:
        """Write a sample into its row or a block of its own."""
        if self._rows and self._put_row(position, sample):
            return Kind.ROW
        self.put_blob(position, payload.dump(sample))
        return Kind.BLOB

    def put_blob(
        self,
        position: int,
        content: payload.Payload,
        *,
        num_samples: int = 1,
        over_budget: bool = False,
    ) -> None:
        """Write a payload, of one sample or more, into a block that belongs to ``position``."""
        slot = position & self._board.mask
        block = self.allocate(content.nbytes, over_budget=over_budget)
        content.write(self.writable(block, content.nbytes))
        self._board.nbytes.cells[slot] = content.nbytes
        self._board.block.cells[slot] = block
        self._commons.heap.adopt(block)
        head = self._board.head
        head[Head.SAMPLE_BYTES] = max(head[Head.SAMPLE_BYTES], content.nbytes // num_samples)

    def writable(self, block: int, nbytes: int) -> memoryview:
        """The first ``nbytes`` of a block, mapped as a whole if this process never saw it."""
        offset = self._board.block_offset.cells[block]
        if nbytes >= _LEAST_POPULATED and self._mapped.get(block) != offset:
            self._mapped[block] = offset
            self._commons.populate(block)
        return self._commons.view(block, nbytes)

    def allocate(self, nbytes: int, *, over_budget: bool = False) -> int:
        """A block for ``nbytes``; waits for the training loop to free one.

        Raises:
            BufferFullError: If nothing can ever become free.
        """
        commons, board, me = self._commons, self._board, self._worker_id
        has_said_so = False
        while True:
            refused: SharedMemoryError | None = None
            with self._visit:
                # What is raised is raised outside: in here it would look like a death.
                try:
                    block = commons.heap.allocate(nbytes, me, over_budget=over_budget)
                except SharedMemoryError as error:
                    block, refused = -1, error
                if block >= 0 or refused is not None:
                    board.running.cells[me] = Running.SAMPLE
                    is_hopeless = is_stuck = False
                else:
                    board.running.cells[me] = Running.WAITING_FOR_MEMORY
                    is_stuck = self._is_stuck()
                    is_hopeless = nbytes > commons.heap.budget_bytes
                    is_hopeless |= has_said_so and is_stuck and self._is_first()
                    board.parked.cells[me] = int(has_said_so and not is_hopeless)
            if block >= 0:
                return block
            if refused is not None:
                raise refused
            if is_hopeless:
                board.running.cells[me] = Running.SAMPLE
                raise _buffer_full(nbytes, commons)
            if not has_said_so:
                # Blocks are freed without the lock: look again, now that whoever
                # frees one knows that somebody waits.
                has_said_so = True
                continue
            if is_stuck:
                commons.wake_for_memory()  # the one whose sample comes first gives up
            if not self._wait() or board.head[Head.STOP]:
                raise TrainingProcessGone

    def _is_stuck(self) -> bool:
        """Whether the loop waits for a batch while no worker can make one."""
        board = self._board
        waiting = board.head[Head.WAITING]
        if waiting == Waiting.EPOCH_END:
            return True  # the epoch is given up: nobody will free any
        if not waiting or self._commons.delivery.is_ready():
            return False
        running, alive = board.running.array, board.alive.array
        busy = (running == Running.SAMPLE) | (running == Running.COLLATE)
        idle = running == Running.NOTHING
        about_to_look = idle & (board.parked.array == 0)
        can_collate = idle & bool((board.out_status.array == Outgoing.COMPOSED).any())
        # Who is to leave finishes what it is at, and takes nothing new; a guest that is
        # elsewhere comes back when it likes.
        is_there, stays = alive != Alive.GONE, (alive != Alive.LEAVING) & (alive != Alive.GUEST)
        return not (is_there & (busy | (stays & (about_to_look | can_collate)))).any()

    def _is_first(self) -> bool:
        board = self._board
        waiting = (board.running.array == Running.WAITING_FOR_MEMORY) & (
            board.alive.array != Alive.GONE
        )
        return bool(board.current.cells[self._worker_id] == board.current.array[waiting].min())

    def prepare_rows(self, home: int) -> None:
        """Give a home batch its block of rows, if rows are agreed. Holds the lock."""
        board = self._board
        slot = home & board.home_mask
        if board.head[Head.ROWS] != _AGREED or board.home_block.cells[slot] >= 0:
            return
        layout = self._agreed_layout()
        count = board.home_count.cells[slot]
        try:
            block = self._commons.heap.allocate(layout.block_bytes(count), self._worker_id)
        except SharedMemoryError:
            return  # its samples go the other way, and fail in their turn if there is no room
        if block >= 0:
            board.home_block.cells[slot] = block
            self._commons.heap.adopt(block)

    def native_rows(self, home: int) -> Any:
        """The native writer of a home batch's rows; None where rows are not agreed."""
        block = self._board.home_block.cells[home & self._board.home_mask]
        if not self._rows or block < 0:
            return None
        count = self._board.home_count.cells[home & self._board.home_mask]
        place = (count, self._board.block_offset.cells[block])
        cached = self._targets.get(block)
        if cached is not None and cached[0] == place:
            return cached[1]
        description = self._agreed_layout().describe(count)
        api = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
        target = native.MODULE.RowTarget(self._writable_rows(block, count), description, api)
        self._targets[block] = (place, target)
        return target

    @property
    def has_row_batches(self) -> bool:
        """Whether the rows of a batch are, or may yet become, its collated form."""
        is_row = self._rows and self._board.head[Head.ROWS] != _GIVEN_UP
        return is_row and self._commons.config.rules.rows_are_batch

    def load_samples(self, positions: list[int]) -> list[Any]:
        """Samples that any worker has stored; views of shared memory."""
        board, commons = self._board, self._commons
        loan = _Loan()
        memory = commons.lease_all(loan.end)
        rows: dict[int, list[Any]] = {}
        samples = []
        for position in positions:
            slot = position & board.mask
            home = board.home.cells[slot]
            if board.kind.cells[slot] != Kind.ROW:
                block = board.block.cells[slot]
                offset = board.block_offset.cells[block]
                samples.append(payload.load(memory[offset : offset + board.nbytes.cells[slot]]))
                loan.blocks.append(block)
                continue
            layout = self._agreed_layout()
            if home not in rows:
                count = board.home_count.cells[home & board.home_mask]
                block = board.home_block.cells[home & board.home_mask]
                offset = board.block_offset.cells[block]
                view = memory[offset : offset + layout.block_bytes(count)]
                rows[home] = layout.tensors(view, count)
                loan.blocks.append(block)
            samples.append(layout.sample_of(rows[home], board.row.cells[slot]))
        self._loans.append(loan)
        return samples

    def gather(self, positions: list[int], block: int) -> None:
        """Copy rows of several home batches into the block of one batch."""
        board, leaves = self._board, self._agreed_layout().leaves
        target = self._writable_rows(block, len(positions))
        starts = self._agreed_layout().offsets(len(positions))
        filled = 0
        while filled < len(positions):
            slot = positions[filled] & board.mask
            home = board.home.cells[slot]
            run = 1
            while (
                filled + run < len(positions)
                and positions[filled + run] == positions[filled] + run
                and board.home.cells[positions[filled + run] & board.mask] == home
            ):
                run += 1
            home_slot, row = home & board.home_mask, board.row.cells[slot]
            count = board.home_count.cells[home_slot]
            source = self._rows_of(board.home_block.cells[home_slot], count)
            for leaf, to, out_of in zip(
                leaves, starts, self._agreed_layout().offsets(count), strict=True
            ):
                size = leaf.row_bytes
                copy_bytes(
                    target[to + filled * size : to + (filled + run) * size],
                    source[out_of + row * size : out_of + (row + run) * size],
                )
            filled += run

    def gathered_bytes(self, count: int) -> int:
        """Bytes of a block for a batch of ``count`` rows."""
        return self._agreed_layout().block_bytes(count)

    def lend_what_lives(self) -> None:
        """Keep blocks that the user's collate function still looks at. Holds the lock."""
        self.take_back()
        for loan in self._loans:
            loan.is_lent = True
            for block in loan.blocks:
                self._commons.heap.lend(block, self._worker_id)

    def take_back(self) -> None:
        """Free lent blocks that nothing looks at any more. Holds the lock."""
        over = [loan for loan in self._loans if loan.is_over and loan.is_lent]
        self._loans = [loan for loan in self._loans if not loan.is_over]
        still_lent = {block for loan in self._loans for block in loan.blocks}
        for block in {block for loan in over for block in loan.blocks} - still_lent:
            self._commons.heap.take_back(block, self._worker_id)

    @property
    def has_lent(self) -> bool:
        """Whether some block waits for its last view."""
        return bool(self._loans)

    def _put_row(self, position: int, sample: object) -> bool:
        board = self._board
        home = board.home.cells[position & board.mask]
        writer = self._writer(home)
        if writer is None and board.head[Head.ROWS] != _GIVEN_UP:
            self._agree_on(sample, home)
            writer = self._writer(home)
        if writer is None:
            return False
        if writer.write(board.row.cells[position & board.mask], sample):
            return True
        board.head[Head.ROW_MISSES] += 1
        if board.head[Head.ROW_MISSES] >= _GIVE_UP_ROWS:
            with self._visit:
                board.head[Head.ROWS] = _GIVEN_UP
        return False

    def _writer(self, home: int) -> RowWriter | None:
        board = self._board
        slot = home & board.home_mask
        block = board.home_block.cells[slot]
        if block < 0:
            return None
        count = board.home_count.cells[slot]
        place = (count, board.block_offset.cells[block])
        cached = self._writers.get(block)
        if cached is not None and cached[0] == place:
            return cached[1]
        writer = RowWriter(
            self._agreed_layout(),
            self._writable_rows(block, count),
            count,
            keeps_strides=not self._commons.config.rules.rows_are_batch,
        )
        self._writers[block] = (place, writer)
        return writer

    def _agree_on(self, sample: object, home: int) -> None:
        """Propose this sample's layout, unless another worker was first."""
        board = self._board
        with self._visit:
            if board.head[Head.ROWS] == _UNKNOWN:
                layout = layout_of(sample)
                encoded = b"" if layout is None else pickle.dumps(layout)
                if layout is None or len(encoded) > len(board.schema):
                    board.head[Head.ROWS] = _GIVEN_UP
                    return
                board.schema[: len(encoded)] = encoded
                board.head[Head.SCHEMA_BYTES] = len(encoded)
                board.head[Head.ROW_BYTES] = layout.row_bytes
                board.head[Head.ROWS] = _AGREED
            self.prepare_rows(home)

    def _agreed_layout(self) -> RowLayout:
        if self._layout is None:
            self._layout = read_layout(self._commons)
        return self._layout

    def _rows_of(self, block: int, count: int) -> memoryview:
        return self._commons.view(block, self._agreed_layout().block_bytes(count))

    def _writable_rows(self, block: int, count: int) -> memoryview:
        return self.writable(block, self._agreed_layout().block_bytes(count))


class _Loan:
    """Blocks that the user's collate function looks at, all through one view."""

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self.is_over = self.is_lent = False

    def end(self) -> None:
        """The last view is gone."""
        self.is_over = True


def read_layout(commons: Commons) -> RowLayout:
    """The layout of rows that the workers agreed on."""
    board = commons.board
    layout: RowLayout = pickle.loads(board.schema[: board.head[Head.SCHEMA_BYTES]])
    return layout


def _buffer_full(nbytes: int, commons: Commons) -> BufferFullError:
    budget = commons.heap.budget_bytes
    return BufferFullError(
        f"a sample or batch needs {format_bytes(nbytes)} more of the shared buffer, which holds "
        f"{format_bytes(budget)} (buffer_bytes={budget}), {format_bytes(commons.heap.used_bytes())}"
        " of it in use; raise buffer_bytes= or lower batch_size=",
        needed_bytes=nbytes,
        buffer_bytes=budget,
    )
