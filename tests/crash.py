"""What a crash leaves of a file: of the writes since the last flush, any sectors."""

from __future__ import annotations

import random
from collections.abc import Sequence

SECTOR = 512
# A write, where and what; or None: a flush.
Entry = tuple[int, bytes] | None


def apply(content: bytearray, offset: int, data: bytes) -> None:
    """Write to a file that is held in memory."""
    content.extend(bytes(max(0, offset + len(data) - len(content))))
    content[offset : offset + len(data)] = data


def after_crash(start: bytes, log: Sequence[Entry], at: int, place: random.Random) -> bytes:
    """The file ``start`` after a crash at entry ``at`` of what was done to it."""
    content = bytearray(start)
    flushed = max((number for number in range(at) if log[number] is None), default=-1)
    share = place.choice((0.0, 0.5, 0.9, 1.0))
    for number, entry in enumerate(log[:at]):
        if entry is None:
            continue
        offset, data = entry
        if number < flushed:
            apply(content, offset, data)
            continue
        while data:
            size = min(len(data), SECTOR - offset % SECTOR)
            if place.random() < share:
                apply(content, offset, data[:size])
            data, offset = data[size:], offset + size
    return bytes(content)
