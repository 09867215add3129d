"""Loaders whose batches arrive on a device, with or without a fake of CUDA beneath them."""

from __future__ import annotations

from typing import Any

import pytest

from hatchway import DataLoader
from hatchway.loader import iterable, ondevice, registration, serial, transfer
from hatchway.loader.board import Head, Outgoing
from tests.real.gates import PATIENCE_S, until
from tests.recorder import RecordingCuda

KINDS = ["cpu", "fake streams"]


def give_device(kind: str, monkeypatch: pytest.MonkeyPatch) -> list[RecordingCuda]:
    """Have loaders with a device use one of :data:`KINDS`.

    Returns:
        The fakes that loaders were given; none where the CPU is the device.
    """
    found: list[RecordingCuda] = []
    if kind == "cpu":
        return found

    def streams(_device: Any) -> transfer.StreamTransfer:
        found.append(RecordingCuda())
        return transfer.StreamTransfer(found[-1])

    monkeypatch.setattr(registration, "LEAST_BYTES", 1)
    for module in (ondevice, serial, iterable):
        monkeypatch.setattr(module, "transfer_to", streams)
    return found


def load(dataset: Any, batch_size: int | None = 4, **arguments: Any) -> DataLoader[Any]:
    chosen: dict[str, Any] = {"num_workers": 2, "timeout": PATIENCE_S, "device": "cpu"}
    if arguments.get("num_workers") == 0:
        chosen["timeout"] = 0
    return DataLoader(dataset, batch_size, **(chosen | arguments))


def is_next_ready(iterator: Any) -> bool:
    """Wait until there is a batch to look ahead at, behind that which comes next."""
    board = iterator._board
    tail = board.head[Head.OUT_TAIL]
    slots = [number & board.out_mask for number in (tail, tail + 1)]
    return until(lambda: all(board.out_status.cells[slot] == Outgoing.READY for slot in slots))
