"""An exception of the user's code on its way to the training loop, type and all."""

from __future__ import annotations

import pickle
import signal
import traceback
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from hatchway.loader.errors import SampleError, UnpicklableError, WorkerDiedError

_LONGEST_REPR = 200
_LONGEST_TEXT = 2000
# What a worker catches of the user's code; any other ends the process.
CAUGHT = (Exception, SystemExit, KeyboardInterrupt, GeneratorExit)


@dataclass(frozen=True)
class Failure:
    """What failed, where, and the exception if it could be pickled."""

    doing: str
    position: int | None
    index: object
    worker_id: int | None
    type_name: str
    text: str
    pickled: bytes | None
    exit_code: int | None = None
    other_positions: tuple[int, ...] = ()

    def reraise(self) -> NoReturn:
        """Raise the exception in the training process.

        It has its original type and arguments, and its attributes if they can be
        pickled. Its ``__cause__`` is a ``SampleError`` that says where it happened,
        with the worker's traceback.

        Raises:
            Exception: The original one; ``RuntimeError`` for ``StopIteration`` and
                for what is no ``Exception``, such as ``SystemExit``;
                ``UnpicklableError`` where it could not be pickled;
                ``WorkerDiedError`` where there was none.
        """
        where = _where(self)
        fields: dict[str, Any] = {
            "position": self.position,
            "index": self.index,
            "worker_id": self.worker_id,
            "worker_traceback": self.text,
            "other_positions": self.other_positions,
        }
        # One that was raised, by a loader inside the dataset, has been pickled.
        if self.pickled is None and self.type_name == WorkerDiedError.__name__:
            raise WorkerDiedError(f"{where}: {self.text}", exit_code=self.exit_code, **fields)
        cause = SampleError(f"{where}; the worker's traceback:\n\n{self.text}", **fields)
        original = self._original()
        if original is None:
            raise UnpicklableError(
                f"{where} raised {self.type_name}, which cannot be pickled or is too large; its "
                f"traceback in the worker:\n\n{self.text}",
                **fields,
            ) from cause
        if isinstance(original, StopIteration) or not isinstance(original, Exception):
            # It would end the loop, or the script, in silence (see also PEP 479).
            raise RuntimeError(f"{where} raised {original!r}") from cause
        try:
            raise original from cause
        finally:
            # The traceback refers to this frame: without this the two keep each other,
            # and the iterator with its workers, until the garbage collector runs.
            del original, cause

    def shortened(self) -> Failure:
        """The same in a few kilobytes, without the exception itself."""
        if self.type_name == WorkerDiedError.__name__:
            return self
        return replace(self, pickled=None, text=self.text[-_LONGEST_TEXT:])

    def _original(self) -> BaseException | None:
        if self.pickled is None:
            return None
        try:
            loaded = pickle.loads(self.pickled)
        except Exception:  # the user's __reduce__ or __init__ may raise anything
            return None
        return loaded if isinstance(loaded, BaseException) else None


class CopyFailure:
    """A batch was made, and could not be copied to the device: it is delivered as this error."""

    def __init__(self, error: Exception) -> None:
        self._error: Exception | None = error

    def reraise(self) -> NoReturn:
        """Raise the error, once.

        Raises:
            Exception: As the copying raised it; ``RuntimeError`` for ``StopIteration``.
        """
        error, self._error = self._error, None
        assert error is not None
        try:
            if isinstance(error, StopIteration):
                raise RuntimeError(f"the copy of a batch raised {error!r}") from error
            raise error
        finally:
            del error  # its traceback holds this frame, and so the workers


def collating(positions: list[int], epoch_start: int) -> str:
    """What a worker is doing in ``collate_fn``, in words."""
    return f"collate_fn of positions {[position - epoch_start for position in positions]}"


def failure_of(
    error: BaseException,
    *,
    doing: str,
    position: int | None,
    index: object,
    worker_id: int | None,
) -> Failure:
    """Describe an exception that is being handled in a worker."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    # Its frames refer to the loader's memory, and whoever raised it may keep it for good.
    error.__traceback__ = None
    return Failure(
        doing=doing,
        position=position,
        index=_portable(index),
        worker_id=worker_id,
        type_name=type(error).__qualname__,
        text="".join(lines),
        pickled=_pickle(error),
    )


def death_of(
    exit_code: int | None,
    *,
    doing: str,
    position: int | None,
    index: object,
    worker_id: int,
    pid: int | None = None,
) -> Failure:
    """Describe a worker that died twice at the same place, in words that torch's users know."""
    who = "DataLoader worker" if pid is None else f"DataLoader worker (pid {pid})"
    return Failure(
        doing=doing,
        position=position,
        index=_portable(index),
        worker_id=worker_id,
        type_name=WorkerDiedError.__name__,
        text=f"{who} {describe_exit(exit_code)}, twice; {_advice(exit_code)}",
        pickled=None,
        exit_code=exit_code,
    )


def describe_exit(exit_code: int | None) -> str:
    """An exit code in words."""
    if exit_code is None:
        return "vanished"
    if exit_code >= 0:
        return f"exited unexpectedly with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"{-exit_code}"
    return f"is killed by signal: {name}"


def shorten(index: object) -> str:
    """The ``repr`` of a dataset index, cut to a line."""
    try:
        text = repr(index)
    except Exception as error:  # the user's __repr__ may raise anything
        text = f"<{type(index).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= _LONGEST_REPR else text[: _LONGEST_REPR - 3] + "..."


def _where(failure: Failure) -> str:
    sample = ""
    if failure.position is not None:
        sample = f" of dataset index {shorten(failure.index)} (position {failure.position})"
    worker = "" if failure.worker_id is None else f" in worker {failure.worker_id}"
    others = ""
    if failure.other_positions:
        others = f" (positions {list(failure.other_positions)} of the same batch failed, too)"
    return f"{failure.doing}{sample}{worker}{others}"


def _portable(index: object) -> object:
    return index if index is None or type(index) in (int, str) else shorten(index)


def _advice(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return "the kernel kills processes when memory runs out (see dmesg): use fewer workers"
    if exit_code is not None and exit_code < 0:
        return "run the sample alone (dataset[index]) under faulthandler to see where"
    return "look for exit() or os._exit() in the dataset"


def _pickle(error: BaseException) -> bytes | None:
    for one in (error, _Bare(error)):
        try:
            pickled = pickle.dumps(one)
            pickle.loads(pickled)
        except CAUGHT:  # a class that is local, arguments that do not match, open files
            continue
        return pickled
    return None


class _Bare:
    """Pickles as an exception of the same type and arguments, without its attributes."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self._error), self._error.args


class InitError(Exception):
    """Stands for the failure of ``worker_init_fn``."""


class Unusable:
    """Stands for the dataset of a worker whose ``worker_init_fn`` failed."""

    def __getitem__(self, key: Any) -> Any:
        raise InitError

    __getitems__ = __getitem__
