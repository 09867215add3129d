"""The files of the steps: which there are, and who may add to them."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from hatchway.base.errors import CheckpointError

_STEP = re.compile(r"step-(\d{8,})\.qcow2")
# What is being written; whoever holds the lock may remove what a kill left.
_UNFINISHED = re.compile(r"\.step-\d{8,}\.qcow2\.[0-9a-f]{16}")


def path_of(directory: Path, step: int) -> Path:
    """The file of a step."""
    return directory / f"step-{step:08d}.qcow2"


def steps_of(directory: str | os.PathLike[str]) -> list[int]:
    """The numbers of the steps in a directory, ascending. Each was written whole.

    Raises:
        CheckpointError: If the directory cannot be read.
    """
    try:
        found = [_STEP.fullmatch(name) for name in os.listdir(directory)]
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be read: {error.strerror}") from error
    return sorted(int(match[1]) for match in found if match)


class HeldDirectory:
    """A directory of steps that only this object adds to, until it is closed.

    Args:
        path: The directory; it is made, with those above it, if there is none.

    Raises:
        CheckpointError: If it cannot be made, or somebody else adds to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name in os.listdir(path):
                if _UNFINISHED.fullmatch(name):
                    (path / name).unlink(missing_ok=True)
        except OSError as error:
            os.close(self._fd)
            if isinstance(error, BlockingIOError):
                raise CheckpointError(
                    f"{path} is in use: another snapshot, of this process or another, saves there; "
                    "give each its own directory"
                ) from error
            raise _unusable(path, error) from error
        self._process = os.getpid()

    def close(self) -> None:
        """Let others add to it; in a forked child, let go of it only."""
        # A child that was forked meanwhile, a worker say, has the descriptor too.
        if self._process == os.getpid():
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)


def _unusable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path} cannot be used: {error.strerror}")
