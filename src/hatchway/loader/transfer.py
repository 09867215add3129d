"""Copies of batches on a device, begun before the training loop asks for them."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple, Protocol

import torch

from hatchway.loader.cuda import Cuda
from hatchway.loader.devices import device_of
from hatchway.loader.structure import mapped

# Copies whose sources are kept: a training loop that runs ahead of its device waits here.
_MOST_UNDER_WAY = 4


class Copy(NamedTuple):
    """A batch whose copy was begun.

    Attributes:
        batch: As far as it could be copied ahead of its turn.
        source: Keeps the memory that it is copied from.
        done: An event of the device: the copy is over; None where it is over at once.
    """

    batch: Any
    source: Any
    done: Any = None


class Transfer(Protocol):
    """Copies batches to one device."""

    def start(self, batch: Any, source: Any, *, is_pinned: bool) -> Copy:
        """Begin a copy.

        Args:
            batch: What to copy.
            source: What keeps its memory; kept until the copy is over.
            is_pinned: Whether the device reads this memory directly.
        """

    def hand_over(self, copy: Copy) -> Any:
        """The batch on the device, in order with the stream that the caller uses now."""

    def let_go(self) -> None:
        """Drop the sources of the copies that are over."""

    def wait(self) -> None:
        """Wait until every copy is over, and drop the sources."""


def transfer_to(device: Any) -> Transfer:
    """What copies to a device, given as ``device=`` of the loader."""
    found = device_of(device)
    return StreamTransfer(Cuda(found)) if found.type == "cuda" else PlainTransfer(found)


def bring(transfer: Transfer, batch: Any) -> Any:
    """A batch that was not copied ahead, on the device."""
    transfer.let_go()
    return transfer.hand_over(transfer.start(batch, batch, is_pinned=False))


class PlainTransfer:
    """Copies at once: to the CPU, where a copy is private memory, and to devices without streams.

    Args:
        device: Where to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def start(self, batch: Any, source: Any, *, is_pinned: bool) -> Copy:
        """Copy."""
        return Copy(mapped(batch, lambda one: moved(one, self._device)), source)

    def hand_over(self, copy: Copy) -> Any:
        """The batch."""
        return copy.batch

    def let_go(self) -> None:
        """Nothing is kept."""

    def wait(self) -> None:
        """Nothing is under way."""


class StreamTransfer:
    """Copies on a stream of its own, beside what the device computes.

    What lives there belongs to that stream. So a tensor is lent to the caller's stream
    when it is handed over: its memory is used again only after what that stream was
    given to do with it. What cannot be lent (objects without ``record_stream``, sparse
    and nested tensors) is copied in its turn, on the caller's stream.

    Args:
        cuda: The device.
    """

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self._stream = cuda.new_stream()
        self._under_way: deque[tuple[Any, Any]] = deque()

    def start(self, batch: Any, source: Any, *, is_pinned: bool) -> Copy:
        """Begin a copy; pageable memory is staged in torch's pool of pinned memory."""
        cuda = self.cuda
        if not is_pinned:
            batch = cuda.pinned(batch)
        while len(self._under_way) >= _MOST_UNDER_WAY:
            self._under_way[0][0].synchronize()
            self._under_way.popleft()
        try:
            with cuda.on(self._stream):
                ahead = mapped(batch, self._copied_ahead)
        finally:
            done = self._note(self._stream, source)
        return Copy(ahead, source, done)

    def hand_over(self, copy: Copy) -> Any:
        """The batch on the device, in order with the stream that the caller uses now."""
        cuda = self.cuda
        reader = cuda.current_stream()
        reader.wait_event(copy.done)
        is_late = False

        def arrive(one: Any) -> Any:
            nonlocal is_late
            if _can_be_lent(one):
                cuda.lend(one, reader)
                return one
            is_late = True
            return moved(one, cuda.device, non_blocking=True)

        try:
            return mapped(copy.batch, arrive)
        finally:
            if is_late:
                self._note(reader, copy.source)

    def let_go(self) -> None:
        """Drop the sources of the copies that are over."""
        while self._under_way and self._under_way[0][0].query():
            self._under_way.popleft()

    def wait(self) -> None:
        """Wait until every copy is over, and drop the sources."""
        while self._under_way:
            self._under_way[0][0].synchronize()
            self._under_way.popleft()

    def _copied_ahead(self, one: Any) -> Any:
        return moved(one, self.cuda.device, non_blocking=True) if _can_be_lent(one) else one

    def _note(self, stream: Any, source: Any) -> Any:
        """Keep a source until what its stream was given to do so far is done."""
        done = self.cuda.new_event()
        done.record(stream)
        self._under_way.append((done, source))
        return done


def moved(value: Any, device: torch.device, *, non_blocking: bool = False) -> Any:
    """A tensor, or an object with a method ``to``, on a device."""
    if not isinstance(value, torch.Tensor):
        return _asked_to_move(value, device, non_blocking)
    # A leaf stays one. On the CPU, too, it is a copy: the source is used again.
    is_here = device.type == "cpu"
    copied = value.detach().to(device, non_blocking=non_blocking, copy=is_here)
    return copied.requires_grad_() if value.requires_grad else copied


def _asked_to_move(value: Any, device: torch.device, non_blocking: bool) -> Any:
    try:
        after = value.to(device, non_blocking=True) if non_blocking else value.to(device)
    except TypeError:
        if not non_blocking:
            raise
        after = value.to(device)  # one that does not know the argument
    return value if after is None else after  # one that moves itself


def _can_be_lent(value: Any) -> bool:
    """Whether another stream can be given a part in its memory."""
    if isinstance(value, torch.Tensor):
        return value.layout is torch.strided and not value.is_nested
    return hasattr(value, "record_stream")
