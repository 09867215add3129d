"""What a stream yielded, where it lies until a worker makes a sample of it, and how it is read.

The items of a home batch lie in one block of the loader's buffer: a pickled list of
:class:`StoredItem`, which stands where other samplers' keys stand, then each item. The process
that reads the stream writes it once; the training process passes the block's number on.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

from hatchway.loader import payload
from hatchway.loader.commons import Commons
from hatchway.loader.deferred import finished
from hatchway.loader.errors import BufferFullError, SharedMemoryError
from hatchway.loader.outline import outline

View: TypeAlias = Callable[[int, int], memoryview]

_ALIGN = 64
# Of one size, whatever the numbers are: where the items lie is known before the block is.
_PLACE = struct.Struct("<qqq")


class Item:
    """An item in the process that read it.

    Attributes:
        stream_checksum: Tells it from others; see :func:`~hatchway.loader.outline.outline`.
    """

    def __init__(self, value: Any) -> None:
        self._value = value
        self._text, self.stream_checksum = outline(value)

    def read(self, view: View | None) -> Any:
        """What the stream yielded."""
        return self._value

    def __repr__(self) -> str:
        return self._text


class StoredItem:
    """An item in a block of the loader's buffer."""

    def __init__(self, block: int, start: int, nbytes: int, text: str) -> None:
        self._place = block, start, nbytes
        self._text = text

    def read(self, view: View | None) -> Any:
        """What the stream yielded, in memory of its own: whoever gets it may change it."""
        assert view is not None
        block, start, nbytes = self._place
        return payload.load(memoryview(bytearray(view(block, start + nbytes)[start:])))

    def __repr__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[Any, ...]:
        return _stored_item, (_PLACE.pack(*self._place), self._text)


def _stored_item(place: bytes, text: str) -> StoredItem:
    block, start, nbytes = _PLACE.unpack(place)
    return StoredItem(block, start, nbytes, text)


class Finisher:
    """Stands for a dataset: its indices are items, its samples what they finish to.

    Args:
        view: Gives the first bytes of a block; None where items are no stored ones.
    """

    def __init__(self, view: View | None) -> None:
        self._view = view

    def __getitem__(self, item: Item | StoredItem) -> Any:
        return finished(item.read(self._view))


class PackedItems:
    """Items of a home batch, ready to be stored: ``nbytes`` long."""

    def __init__(self, values: list[Any]) -> None:
        self._contents = [payload.dump(value) for value in values]
        outlines = [outline(value) for value in values]
        self._texts = [text for text, _ in outlines]
        self.checksums = [checksum for _, checksum in outlines]
        self._starts: list[int] = []
        end = len(self._index(0, [0] * len(values)))
        for content in self._contents:
            self._starts.append(-(-end // _ALIGN) * _ALIGN)
            end = self._starts[-1] + content.nbytes
        self.nbytes = end

    def _index(self, block: int, starts: list[int]) -> bytes:
        """The list of stored items, pickled; as long for every block."""
        parts = zip(starts, self._contents, self._texts, strict=True)
        return pickle.dumps(
            [StoredItem(block, start, content.nbytes, text) for start, content, text in parts]
        )

    def store(self, commons: Commons, owner: int) -> int:
        """Write the items into a block that belongs to ``owner`` until it is adopted.

        It may go over the budget of the buffer: streams have a share of their own.

        Raises:
            BufferFullError: If they do not fit into an empty buffer.
            SharedMemoryError: If the system has no room.
        """
        budget = commons.heap.budget_bytes
        if self.nbytes > budget:
            raise _too_large(self.nbytes, budget)
        refused: SharedMemoryError | None = None
        with commons.locked(owner):
            # What is raised is raised outside: in here it would look like a death.
            try:
                block = commons.heap.allocate(self.nbytes, owner, over_budget=True)
            except SharedMemoryError as error:
                block, refused = -1, error
        if refused is not None:
            raise refused
        if block < 0:
            raise _too_large(self.nbytes, budget)
        view = commons.view(block, self.nbytes)
        index = self._index(block, self._starts)
        view[: len(index)] = index
        for start, content in zip(self._starts, self._contents, strict=True):
            content.write(view[start : start + content.nbytes])
        return block


def _too_large(nbytes: int, budget: int) -> BufferFullError:
    return BufferFullError(
        f"a batch of what the dataset yields takes {nbytes} bytes, for which the shared buffer "
        f"(buffer_bytes={budget}) has no room; raise buffer_bytes= or lower batch_size=",
        needed_bytes=nbytes,
        buffer_bytes=budget,
    )
