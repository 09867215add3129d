"""Files whose writes are recorded, and what may be left of them after a cut at any moment.

As a host keeps them: of each sector that was written since the last sync, a cut leaves what was
synced or any of what was written there since, whatever it leaves of other sectors.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hatchway.disk.errors import ImageWriteError

SECTOR = 512


class Event(NamedTuple):
    """A write, or a sync where there are no sectors."""

    name: str
    sectors: dict[int, bytes]
    num_marks: int  # how far the workload had come


class Recorder:
    """All files of a layer, as one sequence of writes and syncs."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.before: dict[str, bytes] = {}
        self.num_marks = 0
        # Called with what is about to be done; raises to make it fail.
        self.refuse: Callable[[str], None] = lambda what: None

    def opened(self, path: Path) -> RecordedFile:
        self.before[path.name] = path.read_bytes()
        return RecordedFile(path, self)

    def mark(self) -> None:
        self.num_marks += 1

    def cuts(self, place: random.Random, num_each: int) -> Iterator[tuple[int, dict[str, bytes]]]:
        """What may be left after a cut at each write and sync: how far it was, and the files."""
        synced = {name: _Sectors(content) for name, content in self.before.items()}
        pending: dict[str, dict[int, list[bytes]]] = {name: {} for name in synced}
        for event in self.events:
            for sector, content in event.sectors.items():
                pending[event.name].setdefault(sector, []).append(content)
            for _ in range(num_each if event.sectors else 1):
                share = place.choice((0.0, 0.1, 0.5, 0.9, 1.0))
                yield (
                    event.num_marks,
                    {name: synced[name].overlaid(pending[name], place, share) for name in synced},
                )
            if not event.sectors:
                for sector, versions in pending[event.name].items():
                    synced[event.name].sectors[sector] = versions[-1]
                pending[event.name] = {}


class RecordedFile:
    """A file in memory that says what was done to it."""

    def __init__(self, path: Path, recorder: Recorder) -> None:
        self.path = path
        self.content = bytearray(path.read_bytes())
        self._recorder = recorder

    @property
    def file_bytes(self) -> int:
        return len(self.content)

    def pread(self, num_bytes: int, offset: int) -> bytes:
        return bytes(self.content[offset : offset + num_bytes])

    def pwrite(self, data: Any, offset: int) -> None:
        view = memoryview(data).cast("B")
        self._recorder.refuse(f"write {self.path.name}")
        if len(self.content) < offset + len(view):
            self.content.extend(bytes(offset + len(view) - len(self.content)))
        self.content[offset : offset + len(view)] = view
        first, end = offset // SECTOR, -(-(offset + len(view)) // SECTOR)
        self._record({at: bytes(self.content[at * SECTOR :][:SECTOR]) for at in range(first, end)})

    def sync(self) -> None:
        self._recorder.refuse(f"sync {self.path.name}")
        self._record({})

    def truncate(self, num_bytes: int) -> None:
        del self.content[num_bytes:]
        self.content.extend(bytes(num_bytes - len(self.content)))

    def close(self) -> None:
        pass

    def _record(self, sectors: dict[int, bytes]) -> None:
        recorder = self._recorder
        recorder.events.append(Event(self.path.name, sectors, recorder.num_marks))


class _Sectors:
    def __init__(self, content: bytes) -> None:
        count = -(-len(content) // SECTOR)
        self.sectors = {at: content[at * SECTOR : (at + 1) * SECTOR] for at in range(count)}

    def overlaid(
        self, pending: dict[int, list[bytes]], place: random.Random, share: float
    ) -> bytes:
        found = dict(self.sectors)
        for sector, versions in pending.items():
            if place.random() < share:
                # The last one mostly: it is what a host writes.
                is_last = place.random() < 0.8
                found[sector] = versions[-1] if is_last else place.choice(versions)
        most = max(found, default=-1) + 1
        return b"".join(found.get(at, b"").ljust(SECTOR, b"\0") for at in range(most))


def fail_at(nth: int, errno: int, only: str = "") -> Callable[[str], None]:
    """Have the ``nth`` of what is done fail, of that which begins with ``only``."""
    seen = 0

    def refuse(what: str) -> None:
        nonlocal seen
        if what.startswith(only):
            seen += 1
            if seen == nth:
                raise ImageWriteError(f"{what} fails", path=Path(what), errno=errno)

    return refuse
