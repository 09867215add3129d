"""What can go wrong with checkpoints: one branch under ``CheckpointError``."""

from __future__ import annotations

from pathlib import Path

from hatchway.base.errors import CheckpointError


class DamagedCheckpointError(CheckpointError):
    """A step whose bytes are not those that were saved.

    Attributes:
        path: Its file.
    """

    def __init__(self, message: str, *, path: Path) -> None:
        super().__init__(message)
        self.path = path
