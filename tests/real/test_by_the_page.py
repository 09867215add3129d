"""What the page of torch.utils.data says, side by side: the same outcome with either class."""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import os
import pickle
import re
import threading
import warnings
from collections import UserDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from torch.utils.data import Dataset, IterableDataset, RandomSampler, Subset

from hatchway import DataLoader
from tests.real.gates import PATIENCE_S
from tests.real.shapes import frozen

pytestmark = pytest.mark.real
StockLoader = torch.utils.data.DataLoader
NUMBERS = list(range(10))
WITH_AND_WITHOUT_WORKERS = pytest.mark.parametrize("num_workers", [0, 2])


def outcomes(loader: Any) -> list[Any]:
    """The batches and errors of a pass; of an error the type and the end of what it says."""
    found: list[Any] = []
    iterator = iter(loader)
    while True:
        try:
            found.append(frozen(next(iterator)))
        except StopIteration:
            return found
        except Exception as error:
            # With workers torch puts the worker's traceback before it.
            text = str(error).strip().splitlines()[-1]
            found.append((type(error), text.removeprefix(f"{type(error).__name__}: ")))


def assert_alike(num_workers: int, dataset: Any, *args: Any, **more: Any) -> None:
    """Both classes give the same, stock torch's without workers."""
    limit = PATIENCE_S * (num_workers > 0)
    ours = DataLoader(dataset, *args, num_workers=num_workers, timeout=limit, **more)
    assert outcomes(ours) == outcomes(StockLoader(dataset, *args, **more))


class Echo(Dataset[str]):
    """Says what it was asked for."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, key: Any) -> str:
        return f"{type(key).__name__} {key!r}"


KEYS = [
    3, 2**70, -1, True, None, 1.5, "x", b"x", (1, "y"), [1, 2], {"a": 1},
    slice(1, 2), np.int64(2), torch.tensor(3),
]  # fmt: skip


@WITH_AND_WITHOUT_WORKERS
@pytest.mark.parametrize("batch_size", [3, None])
def test_a_sampler_may_yield_keys_of_any_kind(num_workers: int, batch_size: int | None) -> None:
    assert_alike(num_workers, Echo(), batch_size, sampler=KEYS)


@WITH_AND_WITHOUT_WORKERS
@pytest.mark.parametrize(
    "dataset",
    [(1, 2, 3), range(5), "hello", {0: "a", 1: "b", 2: "c"}, np.arange(6).reshape(3, 2)],
    ids=str,
)
def test_anything_with_an_index_and_a_length_is_a_dataset(num_workers: int, dataset: Any) -> None:
    assert_alike(num_workers, dataset, 2)
    assert_alike(num_workers, dataset, 2, sampler=[0, 7, 1])


@WITH_AND_WITHOUT_WORKERS
def test_a_sampler_that_can_be_read_once_gives_one_pass(num_workers: int) -> None:
    loader = DataLoader(NUMBERS, 2, sampler=iter(range(3)), num_workers=num_workers)
    assert [[batch.tolist() for batch in loader] for _ in range(2)] == [[[0, 1], [2]], []]
    with pytest.raises(TypeError, match="has no len"):
        len(loader)


@dataclasses.dataclass
class Summary:
    """What a collate function may make of a batch."""

    total: int


def nothing(samples: list[Any]) -> None:
    """Make nothing of a batch."""


def picky(samples: list[Any]) -> str:
    if 4 in samples:
        raise LookupError(f"no {samples}")
    return f"all of {samples}"


def summed(samples: list[Any]) -> Summary:
    return Summary(sum(samples))


@WITH_AND_WITHOUT_WORKERS
@pytest.mark.parametrize("collate_fn", [nothing, picky, summed, str, 3])
def test_collate_fn_may_return_anything(num_workers: int, collate_fn: Any) -> None:
    assert_alike(num_workers, NUMBERS, 3, collate_fn=collate_fn)


UNLIKE: list[list[Any]] = [
    [torch.ones(2), torch.ones(3)],
    [np.ones(2), np.ones(3)],
    [[1], [1, 2]],
    [{"a": 1}, {"b": 2}],
    [None, None],
    [{1}, {2}],
    [torch.eye(2).to_sparse()] * 2,
    [np.array(["x"])] * 2,
]


@WITH_AND_WITHOUT_WORKERS
@pytest.mark.parametrize("samples", UNLIKE, ids=str)
def test_what_default_collate_refuses_it_refuses_in_the_same_words(
    num_workers: int, samples: list[Any]
) -> None:
    assert_alike(num_workers, samples, 2)
    loader = DataLoader(samples, 2, num_workers=num_workers)
    assert isinstance(outcomes(loader)[0][0], type)


@WITH_AND_WITHOUT_WORKERS
def test_the_default_dtype_is_that_of_the_program(num_workers: int) -> None:
    class Makes(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return torch.ones(1), 1.5, index

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        assert_alike(num_workers, Makes(), 2)
    finally:
        torch.set_default_dtype(before)


def warned(read: Callable[[], Any]) -> set[tuple[type, str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read()
    texts = {(one.category, re.sub("0x[0-9a-f]+", "", str(one.message))) for one in caught}
    # On a small machine both say, too, that there are many workers.
    return {one for one in texts if "worker processes in total" not in one[1]}


class Shards(IterableDataset[int]):
    """Says that it is shorter than it is."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Any:
        info = torch.utils.data.get_worker_info()
        return iter(range(10) if info is None else range(info.id, 10, info.num_workers))

    def __repr__(self) -> str:
        return "Shards()"


@WITH_AND_WITHOUT_WORKERS
@pytest.mark.parametrize("batch_size", [1, 4, None])
@pytest.mark.parametrize("is_asked", [False, True])
def test_an_iterable_dataset_longer_than_it_said_is_warned_of_as_by_torch(
    num_workers: int, batch_size: int | None, is_asked: bool
) -> None:
    def read(loader_class: Any) -> None:
        loader = loader_class(Shards(), batch_size, num_workers=num_workers)
        if is_asked:
            len(loader)
        list(loader)

    ours = warned(lambda: read(DataLoader))
    assert ours == warned(lambda: read(StockLoader))
    assert bool(ours) == (is_asked and batch_size != 4)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="warned of without an accelerator")
@WITH_AND_WITHOUT_WORKERS
@pytest.mark.parametrize("device", ["", "cuda"])
def test_pin_memory_without_an_accelerator_is_warned_of_as_by_torch(
    num_workers: int, device: str
) -> None:
    def read(loader_class: Any) -> None:
        loader = loader_class(
            NUMBERS, 5, num_workers=num_workers, pin_memory=True, pin_memory_device=device
        )
        assert [batch.tolist() for batch in loader] == [NUMBERS[:5], NUMBERS[5:]]

    ours = warned(lambda: read(DataLoader))
    assert ours == warned(lambda: read(StockLoader))
    assert len(ours) == 1 + bool(device)


class Pinnable:
    """A batch of the user's own type, as in the example of the page."""

    def __init__(self, samples: list[int]) -> None:
        self.samples = samples
        self.num_pinned = 0

    def pin_memory(self) -> Pinnable:
        self.num_pinned += 1
        return self


def pinnable_parts(samples: list[int]) -> Any:
    return Pinnable(samples), UserDict(one=[Pinnable(samples)], text="x"), len(samples)


@WITH_AND_WITHOUT_WORKERS
def test_batches_of_a_type_of_ones_own_pin_themselves(
    num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))

    def read(loader: Any) -> list[Any]:
        batches = [(one, parts["one"][0], count) for one, parts, count in loader]
        return [(a.samples, a.num_pinned, b.num_pinned, count) for a, b, count in batches]

    arguments: dict[str, Any] = {"collate_fn": pinnable_parts, "pin_memory": True}
    ours = read(DataLoader(NUMBERS, 5, num_workers=num_workers, **arguments))
    assert ours == read(StockLoader(NUMBERS, 5, **arguments))
    assert ours == [(NUMBERS[:5], 1, 1, 5), (NUMBERS[5:], 1, 1, 5)]


@WITH_AND_WITHOUT_WORKERS
def test_sampler_and_loader_may_each_have_a_generator(num_workers: int) -> None:
    def read(loader_class: Any, **more: Any) -> Any:
        own, loaders = (torch.Generator().manual_seed(seed) for seed in (3, 4))
        loader = loader_class(
            NUMBERS, 3, sampler=RandomSampler(NUMBERS, generator=own), generator=loaders, **more
        )
        epochs = [[batch.tolist() for batch in loader] for _ in range(2)]
        return epochs, own.get_state().tolist(), loaders.get_state().tolist()

    assert read(DataLoader, order="strict", num_workers=num_workers) == read(StockLoader)


class Offset(Dataset[int]):
    """What it gives and how long it is can be changed."""

    def __init__(self) -> None:
        self.offset, self.length = 0, 4

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index + self.offset


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_see_a_change_of_the_dataset_where_they_are_started_anew(
    persistent: bool,
) -> None:
    def read(loader_class: Any) -> Any:
        data = Offset()
        loader = loader_class(data, 2, num_workers=2, persistent_workers=persistent)
        found = [[batch.tolist() for batch in loader]]
        data.offset, data.length = 100, 6
        found.append([batch.tolist() for batch in loader])
        return found, len(loader)

    assert read(DataLoader) == read(StockLoader)


def test_persistent_workers_serve_one_iterator_which_begins_again() -> None:
    def read(loader_class: Any) -> Any:
        loader = loader_class(NUMBERS, 3, num_workers=1, persistent_workers=True)
        first = iter(loader)
        found = [next(first).tolist()]
        second = iter(loader)
        found += [next(second).tolist(), next(first).tolist(), second is first]
        return found, [batch.tolist() for batch in loader]

    assert read(DataLoader) == read(StockLoader)


@WITH_AND_WITHOUT_WORKERS
def test_the_start_method_may_be_set_later_where_there_are_workers(num_workers: int) -> None:
    def say(loader_class: Any, value: Any) -> Any:
        loader = loader_class(NUMBERS, 5, num_workers=num_workers)
        try:
            loader.multiprocessing_context = value
        except (TypeError, ValueError) as error:
            return type(error), re.sub("0x[0-9a-f]+", "", str(error))
        return type(loader.multiprocessing_context), outcomes(loader)

    for value in ("fork", multiprocessing.get_context("fork"), None, "bad", object):
        assert say(DataLoader, value) == say(StockLoader, value)


@WITH_AND_WITHOUT_WORKERS
def test_an_iterator_says_its_length_is_its_own_and_is_not_pickled(num_workers: int) -> None:
    iterator = iter(DataLoader(NUMBERS, 3, num_workers=num_workers))
    assert len(iterator) == 4
    assert iter(iterator) is iterator
    with pytest.raises(NotImplementedError, match="cannot be pickled"):
        pickle.dumps(iterator)


@WITH_AND_WITHOUT_WORKERS
def test_it_is_read_in_threads_and_from_a_thread_pool(num_workers: int) -> None:
    loader = DataLoader(NUMBERS, 5, num_workers=num_workers)
    expected = [NUMBERS[:5], NUMBERS[5:]]
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append([batch.tolist() for batch in loader]))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 3

    async def read() -> list[Any]:
        iterator = iter(loader)
        batches = []
        while (batch := await asyncio.to_thread(next, iterator, None)) is not None:
            batches.append(batch.tolist())
        return batches

    assert asyncio.run(read()) == expected


@WITH_AND_WITHOUT_WORKERS
def test_a_forked_process_reads_the_loader_of_its_parent(num_workers: int) -> None:
    loader = DataLoader(NUMBERS, 5, num_workers=num_workers)
    expected = [batch.tolist() for batch in loader]
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(theirs, repr([batch.tolist() for batch in loader]).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    with open(ours, "rb") as pipe:
        assert pipe.read().decode() == repr(expected)


class Registers(Dataset[Any]):
    """Loads whole batches, and says so."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        return lambda: index  # nothing that pickle takes

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


def called(samples: list[Any]) -> list[Any]:
    return [sample() for sample in samples]


@WITH_AND_WITHOUT_WORKERS
def test_samples_loaded_as_a_batch_need_not_be_picklable(num_workers: int) -> None:
    assert_alike(num_workers, Registers(), 2, collate_fn=called)
    assert_alike(num_workers, Subset(Registers(), [4, 0, 2]), 2, collate_fn=called)
