"""Home batches whose keys are no plain ints: the keys lie in a block of the buffer."""

from __future__ import annotations

import pickle
from typing import Any

from hatchway.loader.commons import Commons
from hatchway.loader.errors import BufferFullError


def plan_keys(commons: Commons, keys: list[Any]) -> None:
    """Plan a home batch whose keys are no plain ints. Holds the lock.

    Raises:
        BufferFullError: If there is no room for them.
    """
    pickled = pickle.dumps(keys)
    block = commons.heap.allocate(len(pickled), commons.training_process)
    if block < 0:
        budget = commons.heap.budget_bytes
        raise BufferFullError(
            f"no room for the indices of a batch ({len(pickled)} bytes) in the shared buffer "
            f"(buffer_bytes={budget}); raise buffer_bytes=",
            needed_bytes=len(pickled),
            buffer_bytes=budget,
        )
    commons.view(block, len(pickled))[:] = pickled
    commons.schedule.publish(len(keys), None, block)
    commons.heap.adopt(block)


class Drawn:
    """How many bytes of stored items were drawn from a stream and are not planned yet."""

    def __init__(self) -> None:
        self.nbytes = 0


class StoredKeys(list[int]):
    """A home batch of stored items: their checksums, and the block that holds them.

    The block is free again when this is dropped without having been planned.
    """

    def __init__(self, checksums: list[int], commons: Commons, block: int, drawn: Drawn) -> None:
        super().__init__(checksums)
        self._commons = commons
        self._block = block
        self._drawn = drawn
        self._nbytes = commons.board.block_bytes.cells[block]
        drawn.nbytes += self._nbytes

    def plan(self) -> None:
        """Plan the batch; from here on the board owns the block. Holds the lock."""
        block = self._give_up()
        self._commons.schedule.publish(len(self), None, block)

    def _give_up(self) -> int:
        block, self._block = self._block, -1
        self._drawn.nbytes -= self._nbytes
        return block

    def __del__(self) -> None:
        if self._block >= 0:
            self._commons.heap.release(self._give_up())
