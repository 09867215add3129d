"""Batches that arrive on a device: while one is used, the next is copied."""

from __future__ import annotations

import contextlib
import os
from typing import Any, NamedTuple

from hatchway.loader.board import Kind
from hatchway.loader.commons import Commons
from hatchway.loader.delivery import Delivered
from hatchway.loader.failure import CopyFailure
from hatchway.loader.inbox import Inbox
from hatchway.loader.registration import Registration
from hatchway.loader.transfer import Copy, StreamTransfer, Transfer, transfer_to


class _Early(NamedTuple):
    """A batch that lies ready on the board, is not delivered, and whose copy was begun."""

    block: int
    memory: memoryview
    copy: Copy


class DeviceInbox(Inbox):
    """Opens batches on a device.

    When one is opened, the copy of the next is begun, if that is ready by then: nothing
    is waited for. It stays on the board, where nobody else takes it, and is delivered
    when its turn comes. Its block is used again when its copy is over.

    Args:
        commons: The board and the buffer.
        transfer: Copies to the device.
        registration: The blocks that the device reads directly, or None.
    """

    def __init__(
        self, commons: Commons, transfer: Transfer, registration: Registration | None
    ) -> None:
        self._early: _Early | None = None
        super().__init__(commons)
        self._visit = commons.locked(commons.training_process)
        self._transfer = transfer
        self._registration = registration

    def open(self, delivered: Delivered) -> Any:
        """The batch on the device, or what came in its place."""
        if delivered.kind == Kind.ERROR:
            batch = super().open(delivered)
        else:
            batch = self._arrived(delivered)
        self._look_ahead()
        return batch

    def release_dropped(self) -> None:
        """Free the blocks of the batches that were copied or dropped since the last time."""
        if os.getpid() == self._pid:
            if self._commons.delivery.is_ready():
                self._transfer.let_go()
            else:
                # The loop is about to sleep, and workers may wait for this memory.
                self._transfer.wait()
        super().release_dropped()

    def begin(self) -> None:
        """Another pass begins: what comes next on the board is not what was foreseen."""
        super().begin()
        self._early = None

    def close(self) -> None:
        """No batch will be opened any more; those that were stay valid."""
        if os.getpid() != self._pid:
            return  # a forked process must not touch the device
        self._early = None
        # A device that failed says so wherever it is used, and workers must be stopped.
        with contextlib.suppress(RuntimeError):
            self._transfer.wait()
            if self._registration is not None:
                self._registration.close()

    def _arrived(self, delivered: Delivered) -> Any:
        early, block = self._early, delivered.block
        try:
            if early is not None and early.block == block:
                self._early = None
                self._lease(early.memory, block)
                copy = early.copy
                self.num_ahead += 1
            else:
                count = len(delivered.positions)
                memory = self._memory(block, self._size(delivered.kind, delivered.nbytes, count))
                copy = self._start(delivered.kind, block, memory, count)
            return self._transfer.hand_over(copy)
        except Exception as error:
            return CopyFailure(error)

    def _look_ahead(self) -> None:
        """Begin the copy of the next batch, if it is ready and there is room to keep it."""
        self._transfer.let_go()
        if self._early is not None:
            return  # it was overtaken, and waits for its turn
        board, delivery = self._commons.board, self._commons.delivery
        with self._visit:
            slot = delivery.next_ready()
        if slot < 0:
            return
        # Only this process takes it: until then nobody changes what lies there.
        kind, block = board.out_kind.cells[slot], board.out_block.cells[slot]
        nbytes, count = board.out_nbytes.cells[slot], board.out_count.cells[slot]
        if kind == Kind.ERROR or not self._may_keep(block):
            return
        with contextlib.suppress(Exception):  # in its turn it is tried again, and raised
            memory = self._look(block, self._size(kind, nbytes, count))
            self._early = _Early(block, memory, self._start(kind, block, memory, count))

    def _start(self, kind: int, block: int, memory: memoryview, count: int) -> Copy:
        registration = self._registration
        is_pinned = registration is not None and registration.holds(block, memory)
        return self._transfer.start(self._read(kind, memory, count), memory, is_pinned=is_pinned)

    def _memory(self, block: int, nbytes: int) -> memoryview:
        if not self._may_keep(block):
            self._transfer.wait()
            super().release_dropped()
        return super()._memory(block, nbytes)

    def _look(self, block: int, nbytes: int) -> memoryview:
        if self._registration is not None:
            memory = self._registration.view(block, nbytes)
            if memory is not None:
                return memory
        return super()._look(block, nbytes)


def make_inbox(commons: Commons, device: Any) -> Inbox:
    """What opens the batches of a loader with this ``device=``."""
    if device is None:
        return Inbox(commons)
    transfer = transfer_to(device)
    if isinstance(transfer, StreamTransfer):
        return DeviceInbox(commons, transfer, Registration(commons, transfer.cuda))
    return DeviceInbox(commons, transfer, None)
