"""The files of an active layer, and the one thing that orders what is written to them."""

from __future__ import annotations

from typing import Any

from hatchway.disk.active.storage import WritableFile
from hatchway.disk.errors import ImageWriteError


class OrderedFiles:
    """The file of the tables and the file of the clusters, which may be the same.

    Between two barriers what is written reaches the disk in any order, or not at all. What
    must not be there before something else is written after a barrier.

    Args:
        tables: The qcow2 file.
        data: Where its clusters lie: the same, or the external data file.
    """

    def __init__(self, tables: WritableFile, data: WritableFile) -> None:
        self.tables = tables
        self.data = data
        self._unsynced: list[WritableFile] = []
        self._failed: ImageWriteError | None = None

    def write(self, data: Any, offset: int) -> None:
        """Write to the file of the tables."""
        self._write(self.tables, data, offset)

    def write_data(self, data: Any, offset: int) -> None:
        """Write to the file of the clusters."""
        self._write(self.data, data, offset)

    def note_data(self) -> None:
        """Note that somebody else wrote to the file of the clusters."""
        self._note(self.data)

    def barrier(self) -> None:
        """Return when all that was written survives a crash.

        Raises:
            ImageWriteError: If it may not. The files are not written to any more then: the
                system forgets what it could not write, and says so only once.
        """
        self.check()
        while self._unsynced:
            try:
                self._unsynced[0].sync()
            except ImageWriteError as error:
                self._failed = error
                raise
            del self._unsynced[0]

    def write_header(self, data: bytes, offset: int) -> None:
        """Change fields of the header, which lie in one sector, after all that was written.

        Raises:
            ImageWriteError: If they cannot be written. The files are not written to any more
                then, since nobody knows which of two states the file is in.
        """
        self.barrier()
        try:
            self.write(data, offset)
        except ImageWriteError as error:
            self._failed = error
            raise
        self.barrier()

    def resize_data(self, num_bytes: int) -> None:
        """Make the file of the clusters shorter, or longer with zeros."""
        self.check()
        self._note(self.data)
        self.data.truncate(num_bytes)

    def cut_tables(self, num_bytes: int) -> None:
        """Make the file of the tables shorter, by what nothing refers to."""
        self.check()
        if num_bytes < self.tables.file_bytes:
            self._note(self.tables)
            self.tables.truncate(num_bytes)

    def check(self) -> None:
        """Raise if a barrier failed.

        Raises:
            ImageWriteError: If so.
        """
        if self._failed is not None:
            raise ImageWriteError(
                f"{self.tables.path} is not written to any more, since what was written before "
                f"may be lost: {self._failed}; open it anew, and write again what was written "
                "after the last flush",
                path=self.tables.path,
                errno=self._failed.errno,
            ) from self._failed

    def close(self) -> None:
        """Close both."""
        self.tables.close()
        if self.data is not self.tables:
            self.data.close()

    def _write(self, file: WritableFile, data: Any, offset: int) -> None:
        self.check()
        self._note(file)
        file.pwrite(data, offset)

    def _note(self, file: WritableFile) -> None:
        if file not in self._unsynced:
            self._unsynced.append(file)
