"""A raw base that is written to."""

from __future__ import annotations

from hatchway.disk.active import WritableFile

_SECTOR = 512
_PIECE_BYTES = 1 << 20


class RawDisk:
    """A raw file as a disk.

    Args:
        file: The file, locked for writing; closed with this.
    """

    def __init__(self, file: WritableFile) -> None:
        self._file = file

    @property
    def size(self) -> int:
        """Bytes of the disk: of the file, rounded up to whole sectors."""
        return -(-self._file.file_bytes // _SECTOR) * _SECTOR

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes to the disk.

        Raises:
            ImageWriteError: If they cannot be written.
        """
        self._file.pwrite(data, offset)

    def write_zeroes(self, offset: int, size: int) -> None:
        """Have a range of the disk read as zeros; what does so already is not written.

        Raises:
            ImageError: If it cannot be.
        """
        end = min(offset + size, self.size)
        while offset < end:
            num_bytes = min(_PIECE_BYTES, end - offset)
            if any(self._file.pread(num_bytes, offset)):
                self._file.pwrite(bytes(num_bytes), offset)
            offset += num_bytes

    def resize(self, size: int) -> None:
        """Make the disk shorter, or longer with zeros, and flush.

        Raises:
            ImageWriteError: If it cannot be.
        """
        self._file.truncate(size)
        self.flush()

    def flush(self) -> None:
        """Return when all that was written survives a crash.

        Raises:
            ImageWriteError: If it may not.
        """
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
