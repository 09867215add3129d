"""What can go wrong while loading: one branch under ``LoaderError``."""

from __future__ import annotations

from typing import Any

from hatchway.base.errors import LoaderError


class _PortableError(LoaderError):
    """Pickles with its fields: these errors cross processes, and users' queues."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__.copy())


def _restore(
    kind: type[_PortableError], args: tuple[Any, ...], fields: dict[str, Any]
) -> _PortableError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class SampleError(_PortableError):
    """Where an exception of the user's code happened; the cause of that exception.

    Attributes:
        position: The sample's place in the sampler's order, from 0; None where
            a whole batch failed (``collate_fn``) or a worker could not begin.
        index: The dataset's index of the sample, or None.
        worker_id: The worker that ran it.
        worker_traceback: The traceback in the worker, as text.
        other_positions: Samples of the same batch that failed as well, and whose errors
            are not raised.
    """

    def __init__(
        self,
        message: str,
        *,
        position: int | None = None,
        index: object = None,
        worker_id: int | None = None,
        worker_traceback: str = "",
        other_positions: tuple[int, ...] = (),
    ) -> None:
        super().__init__(message)
        self.position = position
        self.index = index
        self.worker_id = worker_id
        self.worker_traceback = worker_traceback
        self.other_positions = other_positions


class UnpicklableError(SampleError, RuntimeError):
    """A worker raised an exception that cannot be sent to the training process."""


class WorkerDiedError(SampleError, RuntimeError):
    """A worker died, and died again, on the same sample.

    Attributes:
        exit_code: As in ``multiprocessing.Process.exitcode``: minus the signal's
            number, or the status that the process exited with.
    """

    def __init__(self, message: str, *, exit_code: int | None, **where: object) -> None:
        super().__init__(message, **where)  # type: ignore[arg-type]
        self.exit_code = exit_code


class LoaderTimeoutError(_PortableError, RuntimeError):
    """No batch came within ``timeout`` seconds."""


class StateError(_PortableError, ValueError):
    """A saved state does not fit this loader, or is damaged."""


class BufferFullError(_PortableError, RuntimeError):
    """A batch does not fit into ``buffer_bytes``.

    Attributes:
        needed_bytes: What one more piece of the batch takes.
        buffer_bytes: The bound.
    """

    def __init__(self, message: str, *, needed_bytes: int, buffer_bytes: int) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes
        self.buffer_bytes = buffer_bytes


class SharedMemoryError(_PortableError, OSError):
    """The system has no room for the shared buffer."""
