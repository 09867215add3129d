"""What can go wrong with disk images: one branch under ``DiskError``."""

from __future__ import annotations

from pathlib import Path

from hatchway.base.errors import DiskError


class ImageError(DiskError):
    """Something about one file of a chain.

    Attributes:
        path: The file.
        offset: The byte of it that is to blame, or None.
    """

    def __init__(self, message: str, *, path: Path, offset: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.offset = offset


class CorruptImageError(ImageError):
    """A file that contradicts the format, or itself."""


class UnsupportedImageError(ImageError):
    """A file that may be sound, and needs what Hatchway does not have."""


class BackingFileError(ImageError):
    """A backing or data file that is missing, forbidden, or part of a loop."""


class LockedImageError(ImageError):
    """A file that another program holds, in a way that does not go with ours."""


class ImageWriteError(ImageError):
    """A file that could not be written to, or that may not be any more.

    Attributes:
        errno: Why, as the system said it: ``ENOSPC`` when the disk of the host is full; None
            where it did not say.
    """

    def __init__(
        self, message: str, *, path: Path, offset: int | None = None, errno: int | None = None
    ) -> None:
        super().__init__(message, path=path, offset=offset)
        self.errno = errno


class RecordsError(ImageError):
    """Records in an image that are not there, damaged, or too many."""


class DamagedIndexError(ImageError):
    """A stored index whose bytes are not those that were written; merging does without it."""
