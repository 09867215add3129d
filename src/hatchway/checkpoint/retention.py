"""Keeping a chain of steps short: the old ones are made one file, in the background."""

from __future__ import annotations

import threading
from pathlib import Path

from hatchway.base.errors import CheckpointError, HatchwayError
from hatchway.checkpoint.directory import path_of, steps_of
from hatchway.disk import merge


class _EndedError(Exception):
    """Nobody waits for the merge any more."""


class Retention:
    """Merges all steps but the last few into one, whenever twice as many are there.

    While it runs, steps are saved and restored as ever. A merge that is cut off, by the end of
    the process as well, leaves all as it was.

    Args:
        directory: That of the steps.
        keep: How many steps can be restored at least: these, and the one below them that holds
            the merged.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory, self._keep = directory, keep
        self._is_ended = False
        self._thread: threading.Thread | None = None
        self._failed: HatchwayError | None = None

    def look(self, first: int) -> None:
        """Begin to merge if it is time.

        Args:
            first: The step that the chain begins with.

        Raises:
            HatchwayError: What the merge before this one failed with; the steps are whole, and it
                is tried again.
        """
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
        if self._thread is not None and self._thread.is_alive():
            return
        steps = [step for step in steps_of(self._directory) if step >= first]
        if len(steps) >= 2 * self._keep + 1:
            name = f"hatchway merges steps in {self._directory}"
            self._thread = threading.Thread(target=self._run, args=(steps,), name=name, daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Let it be: a merge that runs is cut off."""
        self._is_ended = True
        if self._thread is not None:
            self._thread.join()

    def _run(self, steps: list[int]) -> None:
        top, last = (path_of(self._directory, steps[rank]) for rank in (-1, -1 - self._keep))
        try:
            merge(top, 0, last, progress=self._progress)
            # From above: what is left then is whole at any moment.
            for step in reversed(steps[: -1 - self._keep]):
                path_of(self._directory, step).unlink()
        except _EndedError:
            pass
        except OSError as error:
            self._failed = CheckpointError(
                f"merged steps in {self._directory} cannot be removed: {error.strerror}; "
                "let them be removable, or save without keep="
            )
        except HatchwayError as error:
            self._failed = error

    def _progress(self, *_: object) -> None:
        if self._is_ended:
            raise _EndedError
