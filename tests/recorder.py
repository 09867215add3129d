"""A recording fake of CUDA, on the CPU: copies are made at once, and called done late."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from hatchway.loader.cuda import Cuda


class FakeStream:
    """Notes what it is to wait for.

    Attributes:
        waited_for: The events, in order.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.waited_for: list[FakeEvent] = []

    def wait_event(self, event: FakeEvent) -> None:
        self.waited_for.append(event)


class FakeEvent:
    """Done only once somebody waits for it, or :meth:`RecordingCuda.finish` is called.

    Attributes:
        stream: What it was recorded on.
        is_done: Whether that has come so far.
    """

    def __init__(self) -> None:
        self.stream: FakeStream | None = None
        self.is_done = False

    def record(self, stream: FakeStream) -> None:
        self.stream = stream

    def query(self) -> bool:
        return self.is_done

    def synchronize(self) -> None:
        self.is_done = True


class RecordingCuda(Cuda):
    """Stands for a GPU.

    Args:
        registers: Whether the driver registers memory.

    Attributes:
        reader: The stream that the caller uses.
        side: The stream that copies are begun on.
        active: The stream that work goes to now.
        events: All events, in order.
        lent: What was lent, to which stream.
        registered: Bytes by address.
        num_registrations: How many there ever were.
        num_staged: How many batches were copied in pinned memory first.
    """

    def __init__(self, *, registers: bool = True) -> None:
        self.device = torch.device("cpu")
        self.registers = registers
        self.reader = self.active = FakeStream("the caller's")
        self.side: FakeStream | None = None
        self.events: list[FakeEvent] = []
        self.lent: list[tuple[Any, FakeStream]] = []
        self.registered: dict[int, int] = {}
        self.num_registrations = self.num_staged = 0

    def new_stream(self) -> FakeStream:
        self.side = FakeStream("the copies'")
        return self.side

    def current_stream(self) -> FakeStream:
        return self.active

    @contextlib.contextmanager
    def _on(self, stream: FakeStream) -> Iterator[None]:
        before, self.active = self.active, stream
        try:
            yield
        finally:
            self.active = before

    def on(self, stream: FakeStream) -> Any:
        return self._on(stream)

    def new_event(self) -> FakeEvent:
        self.events.append(FakeEvent())
        return self.events[-1]

    def lend(self, value: Any, stream: FakeStream) -> None:
        self.lent.append((value, stream))

    def pinned(self, batch: Any) -> Any:
        self.num_staged += 1
        return batch

    def register(self, address: int, nbytes: int) -> bool:
        if not self.registers:
            return False
        for begin, size in self.registered.items():
            assert begin + size <= address or address + nbytes <= begin, "registered twice"
        self.registered[address] = nbytes
        self.num_registrations += 1
        return True

    def unregister(self, address: int) -> None:
        assert all(event.is_done for event in self.events), "a copy is under way"
        del self.registered[address]

    def finish(self) -> None:
        """All that was given to the device is done."""
        for event in self.events:
            event.is_done = True
