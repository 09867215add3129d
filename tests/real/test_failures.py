"""An exception of the user's code arrives in its place, with its type and its story."""

from __future__ import annotations

import gc
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import Dataset

from hatchway import DataLoader
from hatchway.loader import SampleError
from tests.real.gates import PATIENCE_S
from tests.real.shapes import as_list

pytestmark = pytest.mark.real


class TakesTwoError(Exception):
    """Cannot be unpickled: its arguments do not match."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


class Fails(Dataset[Any]):
    """Raises at sample 5."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __len__(self) -> int:
        return 12

    def __getitem__(self, number: int) -> torch.Tensor:
        if number == 5:
            raise self.error
        return torch.tensor(number)


def outcomes(loader: DataLoader[Any]) -> list[Any]:
    found: list[Any] = []
    iterator = iter(loader)
    while True:
        try:
            found.append(next(iterator).tolist())
        except StopIteration:
            return found
        except Exception as error:
            found.append((type(error), type(error.__cause__), str(error)))


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), KeyError("k"), FileNotFoundError(2, "gone", "f")],
    ids=repr,
)
def test_a_failure_stands_where_its_batch_would_have_stood(error: BaseException) -> None:
    for num_workers in (1, 2):
        loader = DataLoader(Fails(error), 4, num_workers=num_workers, timeout=PATIENCE_S)
        assert outcomes(loader) == [
            [0, 1, 2, 3],
            (type(error), SampleError, str(error)),
            [8, 9, 10, 11],
        ]


class FailsOften(Dataset[Any]):
    """Raises at some samples."""

    def __init__(self, failing: set[int]) -> None:
        self.failing = failing

    def __len__(self) -> int:
        return 12

    def __getitem__(self, number: int) -> torch.Tensor:
        if number in self.failing:
            raise ValueError(number)
        return torch.tensor(number)


def test_samples_that_fail_in_one_batch_are_one_error_and_cost_nobody_else() -> None:
    loader = DataLoader(FailsOften({5, 6}), batch_size=4, num_workers=1, order="ready")
    found, errors = [], []
    iterator = iter(loader)
    while True:
        try:
            found += next(iterator).tolist()
        except StopIteration:
            break
        except ValueError as error:
            errors.append(error)
    assert found == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    (error,) = errors
    where = error.__cause__
    assert isinstance(where, SampleError)
    assert (error.args, where.position, where.other_positions) == ((5,), 5, (6,))
    assert "(positions [6] of the same batch failed, too)" in str(where)


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_where_every_sample_fails_there_are_as_many_errors_as_batches(
    order: str, num_workers: int
) -> None:
    data = FailsOften(set(range(12)))
    loader = DataLoader(data, batch_size=5, num_workers=num_workers, order=order)
    assert [kind for kind, *_ in outcomes(loader)] == [ValueError] * 3


def test_a_failure_says_which_sample_where_and_how() -> None:
    loader = DataLoader(
        Fails(ValueError("broken file")), 4, sampler=[9, 5, 1, 2], num_workers=1, order="strict"
    )
    with pytest.raises(ValueError, match=r"^broken file$") as caught:
        next(iter(loader))
    cause = caught.value.__cause__
    assert isinstance(cause, SampleError)
    assert (cause.index, cause.position, cause.worker_id) == (5, 1, 0)
    assert "raise self.error" in cause.worker_traceback
    assert "dataset index 5 (position 1) in worker 0" in str(cause)
    del caught, cause


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_an_exception_that_cannot_be_pickled_arrives_as_a_runtime_error_with_its_text(
    order: str,
) -> None:
    loader = DataLoader(Fails(TakesTwoError("a", "b")), 12, num_workers=2, order=order)
    with pytest.raises(RuntimeError, match="TakesTwoError") as caught:
        list(loader)
    assert "a b" in str(caught.value)
    del caught


def test_a_stop_iteration_of_the_dataset_does_not_end_the_epoch_in_silence() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(DataLoader(Fails(StopIteration()), 4, num_workers=1))


def broken_collate(samples: list[Any]) -> Any:
    if any(int(sample) == 6 for sample in samples):
        raise ZeroDivisionError("collate")
    return torch.stack(samples)


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_a_failing_collate_function_costs_its_batch_only(order: str) -> None:
    plain = [torch.tensor(number) for number in range(12)]
    loader = DataLoader(plain, 4, num_workers=2, collate_fn=broken_collate, order=order)
    found = outcomes(loader)
    errors = [outcome for outcome in found if isinstance(outcome, tuple)]
    assert errors == [(ZeroDivisionError, SampleError, "collate")]
    assert sum(len(outcome) for outcome in found if isinstance(outcome, list)) == 8


def test_a_result_that_cannot_be_pickled_fails_as_its_sample() -> None:
    locked = [1, lambda: None, 3]
    iterator = iter(DataLoader(locked, 1, num_workers=1, collate_fn=as_list))
    assert next(iterator) == [1]
    with pytest.raises(Exception, match="pickle") as caught:
        next(iterator)
    assert isinstance(caught.value.__cause__, SampleError)
    del caught
    assert next(iterator) == [3]


def test_a_caught_failure_keeps_neither_the_iterator_nor_its_workers() -> None:
    def fail_once() -> None:
        iterator = iter(DataLoader(Fails(ValueError("no")), 12, num_workers=1))
        with pytest.raises(ValueError, match="no") as caught:
            next(iterator)
        del caught

    gc.disable()
    try:
        before = set(psutil.Process().children())
        fail_once()
        assert not set(psutil.Process().children()) - before
    finally:
        gc.enable()
