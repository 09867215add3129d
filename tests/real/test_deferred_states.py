"""A pass over a dataset that defers goes on where it was: it is read again, not finished again."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

from hatchway import DataLoader
from hatchway.loader import StateError
from tests.real.augmented import as_list
from tests.real.gates import CONTEXT, PATIENCE_S
from tests.real.resumable import pickled
from tests.real.streams import NUM_ITEMS, Epochs, Moving, Numbers, Shuffled, Unsettled, noisy

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


def make(dataset: Any, num_workers: int, **arguments: Any) -> DataLoader[Any]:
    if num_workers:
        arguments = {"timeout": PATIENCE_S, "multiprocessing_context": CONTEXT} | arguments
    return DataLoader(dataset, 4, num_workers=num_workers, collate_fn=as_list, **arguments)


def samples(batches: Any) -> list[Any]:
    return [sample for batch in batches for sample in batch]


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize("num_readers", [1, 2])
@pytest.mark.parametrize("workers", [(2, 1), (0, 2), (2, 0)])
def test_what_was_not_delivered_comes_with_the_same_contents(
    order: str, num_readers: int, workers: tuple[int, int]
) -> None:
    dataset = Numbers(NUM_ITEMS, noisy, num_readers)
    torch.manual_seed(7)
    whole = sorted(samples(make(dataset, workers[0], order=order)))
    torch.manual_seed(7)
    first = make(dataset, workers[0], order=order)
    iterator = iter(first)
    before = samples(itertools.islice(iterator, 3))
    state = pickled(first.state_dict())
    del iterator
    second = make(dataset, workers[1], order=order)
    second.load_state_dict(state)
    assert sorted(before + samples(second)) == whole
    assert len(samples(second)) == NUM_ITEMS  # and then whole passes


@pytest.mark.parametrize("persistent", [False, True])
def test_an_order_from_the_readers_generators_is_read_again(persistent: bool) -> None:
    def build() -> DataLoader[Any]:
        return make(Shuffled(), 1, persistent_workers=persistent)

    torch.manual_seed(7)
    first = build()
    samples(first)
    whole = samples(first)
    torch.manual_seed(7)
    first = build()
    samples(first)
    iterator = iter(first)
    before = samples(itertools.islice(iterator, 2))
    second = build()
    second.load_state_dict(pickled(first.state_dict()))
    assert before + samples(second) == whole
    del iterator
    first._iterator = second._iterator = None


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_datasets_own_state_is_that_of_the_beginning_of_the_pass(num_workers: int) -> None:
    dataset = Moving()
    dataset.first = 100
    first = make(dataset, num_workers)
    iterator = iter(first)
    before = samples(itertools.islice(iterator, 2))
    dataset.first = 500  # what the present pass does not see
    state = first.state_dict()
    del iterator
    other = Moving()
    second = make(other, num_workers)
    second.load_state_dict(state)
    assert other.first == 100
    found = [number for number, _ in before + samples(second)]
    assert found == list(range(100, 100 + NUM_ITEMS))


def test_an_epoch_that_was_set_is_saved() -> None:
    dataset = Epochs()
    dataset.set_epoch(3)
    first = make(dataset, 1)
    iterator = iter(first)
    state = first.state_dict()
    del iterator
    second = make(Epochs(), 1)
    second.load_state_dict(state)
    assert [int(sample) for sample in samples(second)] == [3, 1]


def test_a_persistent_reader_begins_anew_with_the_state_that_was_loaded() -> None:
    loader = make(Moving(), 1, persistent_workers=True)
    samples(loader)
    state = make(Numbers(), 1).state_dict()
    other = Moving()
    other.first = 40
    state = make(other, 1, persistent_workers=True).state_dict()
    loader.load_state_dict(state)
    assert [number for number, _ in samples(loader)] == list(range(40, 40 + NUM_ITEMS))
    loader._iterator = None


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_dataset_that_yields_something_else_is_an_error(num_workers: int) -> None:
    first = make(Unsettled(), num_workers)
    iterator = iter(first)
    next(iterator)
    second = make(Unsettled(), num_workers)
    second.load_state_dict(first.state_dict())
    del iterator
    with pytest.raises(StateError, match="does not yield what it yielded"):
        iter(second)


def test_another_number_of_readers_is_refused() -> None:
    state = make(Numbers(num_readers=2), 1).state_dict()
    with pytest.raises(StateError, match="num_readers"):
        make(Numbers(num_readers=3), 1).load_state_dict(state)


def test_a_recorded_order_is_replayed() -> None:
    def build(**arguments: Any) -> DataLoader[Any]:
        return make(Numbers(NUM_ITEMS, noisy), 2, order="ready", **arguments)

    torch.manual_seed(7)
    first = build(record_order=True)
    batches = list(first)
    assert list(build(replay=pickled(first.state_dict()))) == batches


class Plain(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(range(8))


def test_without_the_mark_the_pass_begins_anew_as_before() -> None:
    loader = make(Plain(), 1)
    with pytest.warns(UserWarning, match="position in an IterableDataset is not saved"):
        loader.load_state_dict(loader.state_dict())
    assert list(loader) == [[0, 1, 2, 3], [4, 5, 6, 7]]
