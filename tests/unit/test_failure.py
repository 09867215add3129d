"""What becomes of an exception between the worker and the training loop."""

from __future__ import annotations

import pickle
import signal
import threading
from typing import Any

import pytest

from hatchway.loader.errors import (
    BufferFullError,
    SampleError,
    UnpicklableError,
    WorkerDiedError,
)
from hatchway.loader.failure import Failure, death_of, describe_exit, failure_of, shorten


class PickyError(Exception):
    """Needs an argument that pickle does not give it."""

    def __init__(self, *, code: int) -> None:
        super().__init__("picky")
        self.code = code


class LyingError(Exception):
    """Unpickles as something that is no exception."""

    def __reduce__(self) -> Any:
        return dict, ()


class FieldError(Exception):
    """Has a field of its own."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.field = 7


def sent(error: BaseException, **where: Any) -> Failure:
    """The failure as the training process receives it."""
    fields: dict[str, Any] = {"doing": "loading", "position": 3, "index": 9, "worker_id": 1}
    try:
        raise error
    except BaseException as raised:
        failure = failure_of(raised, **(fields | where))
    received: Failure = pickle.loads(pickle.dumps(failure))
    return received


def raised_by(failure: Failure) -> BaseException:
    try:
        failure.reraise()
    except BaseException as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad", 3),
        KeyError("key"),
        OSError(2, "gone", "file"),
        UnicodeDecodeError("utf8", b"x", 0, 1, "why"),
        FieldError("with a field"),
    ],
    ids=repr,
)
def test_type_arguments_and_fields_are_those_of_the_original(error: BaseException) -> None:
    found = raised_by(sent(error))
    assert type(found) is type(error)
    assert found.args == error.args
    assert found.__dict__ == error.__dict__


def test_the_cause_says_where_and_shows_the_workers_traceback() -> None:
    cause = raised_by(sent(ValueError("bad"))).__cause__
    assert isinstance(cause, SampleError)
    assert (cause.position, cause.index, cause.worker_id) == (3, 9, 1)
    assert "loading of dataset index 9 (position 3) in worker 1" in str(cause)
    assert "raise error" in cause.worker_traceback
    assert "ValueError: bad" in cause.worker_traceback


@pytest.mark.parametrize(
    "error", [PickyError(code=3), LyingError("x"), ValueError(threading.Lock())]
)
def test_what_cannot_be_pickled_is_a_runtime_error_with_its_name_and_text(
    error: BaseException,
) -> None:
    found = raised_by(sent(error))
    assert isinstance(found, UnpicklableError)
    assert isinstance(found, RuntimeError)
    assert type(error).__name__ in str(found)
    assert "raise error" in found.worker_traceback
    assert found.position == 3


def test_a_class_that_only_the_worker_knows_is_a_runtime_error_with_its_name() -> None:
    class LocalError(Exception):
        """Cannot be found by name."""

    assert "LocalError" in str(raised_by(sent(LocalError("x"))))


def test_a_stop_iteration_becomes_a_runtime_error() -> None:
    found = raised_by(sent(StopIteration(3)))
    assert type(found) is RuntimeError
    assert "raised StopIteration" in str(found)


def test_a_death_names_the_sample_the_signal_and_what_to_do() -> None:
    failure = death_of(-9, doing="loading the sample", position=4, index="s7", worker_id=2, pid=77)
    found = raised_by(failure)
    assert isinstance(found, WorkerDiedError)
    assert found.exit_code == -signal.SIGKILL
    assert (found.position, found.index, found.worker_id) == (4, "s7", 2)
    for said in (
        "'s7'",
        "position 4",
        "(pid 77) is killed by signal: SIGKILL",
        "use fewer workers",
    ):
        assert said in str(found)


@pytest.mark.parametrize(
    ("exit_code", "said"),
    [
        (None, "vanished"),
        (0, "exited unexpectedly with exit code 0"),
        (3, "exited unexpectedly with exit code 3"),
        (-11, "is killed by signal: SIGSEGV"),
        (-250, "is killed by signal: 250"),
    ],
)
def test_an_exit_code_is_put_in_words(exit_code: int | None, said: str) -> None:
    assert describe_exit(exit_code) == said


class RudeIndex:
    """Its ``repr`` raises."""

    def __repr__(self) -> str:
        raise ZeroDivisionError


def test_a_dataset_index_of_any_kind_is_shown_on_one_line() -> None:
    assert shorten(("a", 3)) == "('a', 3)"
    assert shorten(RudeIndex()) == "<RudeIndex whose repr raised ZeroDivisionError>"
    assert len(shorten("x" * 1000)) == 200
    failure = sent(ValueError("x"), index=RudeIndex())
    assert failure.index == "<RudeIndex whose repr raised ZeroDivisionError>"


@pytest.mark.parametrize(
    "error",
    [
        SampleError("where", position=1, index="a", worker_id=2, worker_traceback="text"),
        WorkerDiedError("died", exit_code=-9, position=1, index=3, worker_id=2),
        BufferFullError("full", needed_bytes=5, buffer_bytes=4),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_loaders_own_errors_keep_their_fields_between_processes(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__
    assert raised_by(sent(error)).__dict__ == error.__dict__


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_what_would_end_the_script_is_a_runtime_error(error: BaseException) -> None:
    found = raised_by(sent(error))
    assert type(found) is RuntimeError
    assert repr(error) in str(found)
    assert isinstance(found.__cause__, SampleError)


def test_an_attribute_that_cannot_be_pickled_does_not_cost_the_type() -> None:
    error = ValueError("bad file")
    error.callback = lambda: None  # type: ignore[attr-defined]
    found = raised_by(sent(error))
    assert (type(found), found.args) == (ValueError, ("bad file",))
