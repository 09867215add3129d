"""Writing an index: blocks behind what is there, then the sector that names the newest commit."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path

from hatchway.disk.files import write_all
from hatchway.disk.index.blocks import (
    FIRST_BLOCK,
    NUM_SLOTS,
    SLOT_BYTES,
    Commit,
    Slot,
    commit_head,
    slot_bytes,
)
from hatchway.disk.index.tree import IndexFile

_BUFFER_BYTES = 1 << 20


class Appender:
    """Appends blocks to an index; nothing of it counts before :meth:`finish`.

    Until then the header names what was there before, whatever happens. Blocks are on the disk
    before the header that leads to them is written.

    Args:
        file: The index, its descriptor open for writing.
        slot: What its header says; None of a new file.
    """

    def __init__(self, file: IndexFile, slot: Slot | None = None) -> None:
        self.file = file
        self._slot = slot or Slot(0, 0, FIRST_BLOCK, 0)
        self._is_new = slot is None
        self._is_named = False
        self._buffer = bytearray()
        self._flushed = self._slot.end
        self.newest = self._slot.commit
        file.end = self._slot.end

    @property
    def num_bytes(self) -> int:
        """What was appended so far."""
        return self._flushed + len(self._buffer) - self._slot.end

    def append(self, block: bytes) -> int:
        """Write a block, and return where it lies."""
        offset = self._flushed + len(self._buffer)
        self._buffer += block
        if len(self._buffer) >= _BUFFER_BYTES:
            self.flush()
        return offset

    def append_commit(self, commit: Commit, records: bytes) -> int:
        """Write a commit, and return where it lies."""
        offset = self._flushed + len(self._buffer)
        self.append(commit_head(commit, offset) + records)
        self.newest = offset
        return offset

    def flush(self) -> None:
        """Have all blocks in the file, so that they can be read."""
        self.write_at(bytes(self._buffer), self._flushed)
        self._flushed += len(self._buffer)
        self._buffer.clear()
        self.file.end = self._flushed

    def finish(self) -> None:
        """Have the header name the newest commit, once all of it is on the disk."""
        self.flush()
        self.sync()
        fresh_bytes = self._flushed if self._is_new else self._slot.fresh_bytes
        slot = Slot(self._slot.sequence + 1, self.newest, self._flushed, fresh_bytes)
        self._is_named = True
        self.write_at(slot_bytes(slot), slot.sequence % NUM_SLOTS * SLOT_BYTES)
        self.sync()

    def abandon(self) -> None:
        """Give back the room that was taken, as far as that can be done."""
        if not self._is_named:  # else the header may lead there already
            with contextlib.suppress(OSError):
                os.ftruncate(self.file.fd, self._slot.end)

    def write_at(self, content: bytes, offset: int) -> None:
        """Write all of ``content``; a file system may take it in parts."""
        write_all(self.file.fd, content, offset)

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        os.fdatasync(self.file.fd)


class NewFile:
    """A file that gets its name at the end, if at all: a context manager.

    Nothing is left of it without, even if this process is killed, where the file system has
    files without a name; elsewhere one with a spare name is removed at the end.

    Args:
        directory: Where it is to lie.

    Attributes:
        fd: Its descriptor, to be read and written.
    """

    def __init__(self, directory: Path) -> None:
        self._spare: Path | None = None
        try:
            self.fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
        except OSError:
            self._spare = _spare_name(directory)
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
            self.fd = os.open(self._spare, flags, 0o666)

    def publish(self, path: Path) -> None:
        """Have it be ``path``, in place of what was there."""
        if self._spare is None:
            link(Path(f"/proc/self/fd/{self.fd}"), path, self.fd)
        else:
            os.replace(self._spare, path)
            self._spare = None

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        if self._spare is not None:
            self._spare.unlink(missing_ok=True)


def link(existing: Path, path: Path, fd: int | None = None) -> None:
    """Have ``path`` be another name of a file, in place of what was there.

    Args:
        existing: A name that it has, or what leads to it.
        path: The other name.
        fd: Its descriptor, where ``existing`` is that of a file without a name.

    Raises:
        OSError: If the file system has no hard links, or they may not be made.
    """
    spare = _spare_name(path.parent)
    try:
        # Python follows the link in /proc only where it is given a descriptor, which the system
        # does not look at when the path is absolute.
        os.link(existing, spare, src_dir_fd=fd, follow_symlinks=True)
        os.replace(spare, path)
    finally:
        # Of two names of one file, rename leaves both.
        spare.unlink(missing_ok=True)


def file_system_time(fd: int) -> int:
    """What the time is, in nanoseconds, by the clock that stamps files; touches the file."""
    os.utime(fd)
    return min(os.fstat(fd).st_mtime_ns, time.time_ns())


def _spare_name(directory: Path) -> Path:
    return directory / f".hatchway-index-{secrets.token_hex(8)}"
