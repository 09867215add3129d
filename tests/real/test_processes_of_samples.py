"""What a sample may do with processes and loaders of its own, beside what stock torch says."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader as StockLoader
from torch.utils.data import Dataset

from hatchway import DataLoader

pytestmark = pytest.mark.real
BOTH = [StockLoader, DataLoader]
NUMBERS: Any = range(24)


class Made(Dataset[int]):
    """Sample n is what ``make(n)`` returns."""

    def __init__(self, make: Callable[[int], int]) -> None:
        self.make = make

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> int:
        return self.make(index)


def by_fork(index: int) -> int:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, bytes([index]))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    number = os.read(read, 1)[0]
    os.close(read)
    os.close(write)
    return number + status


def by_program(index: int) -> int:
    return int(subprocess.run(["echo", str(index)], capture_output=True, check=True).stdout)


def by_torchs_threads(index: int) -> int:
    return int(torch.full((1 << 16,), index).sum()) >> 16


@pytest.mark.parametrize("make", [by_fork, by_program, by_torchs_threads])
@pytest.mark.parametrize("order", ["strict", "ready"])
def test_a_sample_may_fork_or_run_a_program(make: Callable[[int], int], order: str) -> None:
    loader = DataLoader(Made(make), 4, num_workers=2, order=order, timeout=30)
    for _ in range(2):
        assert sorted(torch.cat(list(loader)).tolist()) == list(range(12))
    assert loader.statistics().num_restarts == 0


def test_a_process_that_a_sample_leaves_behind_holds_up_nobody() -> None:
    read, write = os.pipe()

    def leave_one(index: int) -> int:
        if index == 0 and not os.fork():
            os.close(write)
            os.read(read, 1)  # until the test is over
            os._exit(0)
        return index

    loader = DataLoader(Made(leave_one), 4, num_workers=2, order="strict", timeout=30)
    assert torch.cat(list(loader)).tolist() == list(range(12))
    os.close(write)
    os.close(read)


def error_of(kind: Any, make: Callable[[int], int]) -> tuple[type, str]:
    loader = kind(Made(make), 4, num_workers=1, multiprocessing_context="fork", timeout=30)
    try:  # what pytest.raises() holds would hold the iterator, and that its workers
        list(loader)
    except Exception as error:
        found = type(error), str(error)
    gc.collect()  # stock torch's iterator
    return found


@pytest.mark.parametrize("inner", BOTH)
@pytest.mark.parametrize("outer", BOTH)
def test_a_loader_with_workers_within_a_sample_is_told_what_torch_tells_it(
    outer: Any, inner: Any
) -> None:
    def sum_of_all(index: int) -> int:
        return sum(int(batch.sum()) for batch in inner(NUMBERS, 4, num_workers=1))

    error_type, text = error_of(outer, sum_of_all)
    assert error_type is AssertionError
    assert "daemonic processes are not allowed to have children" in text


@pytest.mark.parametrize("inner", BOTH)
@pytest.mark.parametrize("outer", BOTH)
def test_a_loader_without_workers_within_a_sample_works(outer: Any, inner: Any) -> None:
    def place(index: int) -> int:
        return torch.cat(list(inner(NUMBERS, 4))).tolist().index(index)

    loader = outer(Made(place), 4, num_workers=2, timeout=30)
    assert torch.cat(list(loader)).tolist() == list(range(12))


def test_a_loader_of_threads_within_a_sample_works() -> None:
    def place(index: int) -> int:
        inner = DataLoader(NUMBERS, 4, num_workers=2, worker_type="thread", timeout=30)
        return torch.cat(list(inner)).tolist().index(index)

    loader = DataLoader(Made(place), 4, num_workers=2, timeout=30)
    assert torch.cat(list(loader)).tolist() == list(range(12))


@pytest.mark.parametrize("kind", BOTH)
def test_cuda_that_was_used_before_the_fork_is_the_error_that_torch_raises(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An imitation, without a GPU: a forked process finds what torch notes after a fork.
    here = os.getpid()
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: os.getpid() != here)
    monkeypatch.setattr(torch.cuda, "_initialized", False)

    def use_cuda(index: int) -> int:
        torch.cuda.init()
        return index

    error_type, text = error_of(kind, use_cuda)
    assert error_type is RuntimeError
    assert "Cannot re-initialize CUDA in forked subprocess" in text
    assert "'spawn' start method" in text


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_iterators_that_take_turns_at_random_each_get_a_whole_pass(order: str) -> None:
    draw = random.Random(0)
    loader = DataLoader(NUMBERS, 2, num_workers=1, order=order, timeout=30)
    open_ones = {number: iter(loader) for number in range(4)}
    came: dict[int, list[int]] = {number: [] for number in open_ones}
    while open_ones:
        number = draw.choice(sorted(open_ones))
        try:
            came[number] += next(open_ones[number]).tolist()
        except StopIteration:
            del open_ones[number]
    assert [sorted(numbers) for numbers in came.values()] == [list(NUMBERS)] * 4


KINDS: list[dict[str, Any]] = [
    {},
    {"num_workers": 1},
    {"num_workers": 1, "persistent_workers": True},
    {"num_workers": 1, "worker_type": "thread"},
]


@pytest.mark.parametrize("arguments", KINDS, ids=str)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_loader_is_copied_and_pickled_before_during_and_after_a_pass(
    copied: Callable[[Any], Any], arguments: dict[str, Any]
) -> None:
    loader = DataLoader(NUMBERS, 4, **arguments)
    copies = [copied(loader)]
    iterator = iter(loader)
    came = [next(iterator).tolist()]
    copies.append(copied(loader))
    came += [batch.tolist() for batch in iterator]
    copies.append(copied(loader))
    assert came == [batch.tolist() for batch in StockLoader(NUMBERS, 4)]
    for each in copies:
        other = pickle.loads(each) if isinstance(each, bytes) else each
        assert [batch.tolist() for batch in other] == came
        if loader.persistent_workers:
            assert other._iterator is not iterator
            other._iterator = None


def test_a_loader_that_is_sent_elsewhere_in_the_middle_of_a_pass_begins_there_anew() -> None:
    loader = DataLoader(NUMBERS, 4, num_workers=1, timeout=30)
    iterator = iter(loader)
    next(iterator)
    code = "import pickle, sys; print([b.tolist() for b in pickle.load(sys.stdin.buffer)])"
    told = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(loader), capture_output=True, check=True
    )
    assert told.stdout.decode().strip() == str([batch.tolist() for batch in loader])
    assert len(list(iterator)) == 5
