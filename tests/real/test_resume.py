"""A loader that was saved goes on, in another process or here, with what was not delivered."""

from __future__ import annotations

import copy
import io
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from hatchway import DataLoader
from hatchway.loader import StateError

NUM_SAMPLES = 50
BATCH = 4

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Noisy(Dataset[Any]):
    """An index and random numbers from all three generators; some are slow."""

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        if index % 7 == 0:
            time.sleep(0.01)
        return index, torch.rand(()).item(), float(np.random.rand()), random.random()


class Stateful(Sampler[int]):
    """A sampler of the user's with a state of its own, as torchdata's samplers have."""

    def __init__(self) -> None:
        self.round = 0

    def __iter__(self) -> Any:
        self.round += 1
        return iter(random.Random(self.round).sample(range(NUM_SAMPLES), NUM_SAMPLES))

    def __len__(self) -> int:
        return NUM_SAMPLES

    def state_dict(self) -> dict[str, int]:
        return {"round": self.round}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.round = state["round"]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def _dealt() -> DistributedSampler[Any]:
    return DistributedSampler(Noisy(), num_replicas=2, rank=1, seed=3)


SETTINGS: dict[str, Any] = {
    "sequential": lambda: {},
    "shuffle": lambda: {"shuffle": True},
    "generator": lambda: {"shuffle": True, "generator": _generator()},
    "subset": lambda: {"sampler": SubsetRandomSampler(range(3, 40), _generator())},
    "weighted": lambda: {"sampler": WeightedRandomSampler([1.0] * NUM_SAMPLES, 44)},
    "distributed": lambda: {"sampler": _dealt()},
    "stateful": lambda: {"sampler": Stateful()},
    "batch_sampler": lambda: {
        "batch_size": 1,
        "batch_sampler": BatchSampler(SequentialSampler(range(NUM_SAMPLES)), 6, False),
    },
    "single": lambda: {"batch_size": None, "shuffle": True, "generator": _generator()},
    "drop_last": lambda: {"shuffle": True, "drop_last": True, "generator": _generator()},
}


def _loader(name: str, **arguments: Any) -> DataLoader[Any]:
    return DataLoader(Noisy(), **{"batch_size": BATCH, **SETTINGS[name](), **arguments})


def _rows(batches: Any) -> list[Any]:
    """Every sample of some batches, with its random numbers."""
    found = []
    for batch in batches:
        columns = [np.atleast_1d(np.asarray(column)).tolist() for column in batch]
        found += list(zip(*columns, strict=True))
    return found


def _stop(loader: DataLoader[Any]) -> None:
    loader._iterator = None


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize("name", SETTINGS)
def test_what_comes_after_is_what_would_have_come(name: str, order: str) -> None:
    torch.manual_seed(11)
    whole = _loader(name, order=order, num_workers=2)
    epochs = [_rows(whole) for _ in range(2)]
    for cut, num_workers in ((0, 3), (1, 0), (5, 1), (len(whole), 3)):
        torch.manual_seed(11)
        first = _loader(name, order=order, num_workers=2)
        iterator = iter(first)
        before = _rows(next(iterator) for _ in range(cut))
        state = first.state_dict()
        elsewhere = torch.get_rng_state()  # as a training script saves it, too
        del iterator
        torch.manual_seed(99)
        second = _loader(name, order=order, num_workers=num_workers)
        second.load_state_dict(pickled(state))
        torch.set_rng_state(elsewhere)
        after = _rows(second)
        again = _rows(second)
        if order == "strict":
            assert before + after == epochs[0]
            assert again == epochs[1]
        elif name != "drop_last":  # which samples are dropped may differ
            assert sorted(before + after) == sorted(epochs[0])
            assert sorted(again) == sorted(epochs[1])


def pickled(state: Any) -> Any:
    """As a training script saves and loads it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_persistent_workers_go_on_with_their_epochs(order: str) -> None:
    def make() -> DataLoader[Any]:
        return _loader("generator", order=order, num_workers=2, persistent_workers=True, timeout=30)

    whole = make()
    epochs = [sorted(_rows(whole)) for _ in range(4)]
    _stop(whole)
    for num_epochs, cut in ((0, 3), (1, 0), (1, 6), (2, 13)):
        first = make()
        for _ in range(num_epochs):
            _rows(first)
        iterator = iter(first) if cut else None
        before = _rows(next(iterator) for _ in range(cut))
        state = first.state_dict()
        del iterator
        _stop(first)
        second = make()
        second.load_state_dict(state)
        assert sorted(before + _rows(second)) == epochs[num_epochs]
        assert sorted(_rows(second)) == epochs[num_epochs + 1]
        _stop(second)


def test_a_state_can_be_loaded_while_workers_wait() -> None:
    loader = _loader("generator", num_workers=2, persistent_workers=True, timeout=30)
    iterator = iter(loader)
    before = _rows(next(iterator) for _ in range(4))
    state = loader.state_dict()
    rest = sorted(_rows(iterator))
    next(iter(loader))
    for _ in range(2):
        loader.load_state_dict(state)
        assert sorted(_rows(loader)) == rest
    assert not set(rest) & set(before)
    del iterator
    _stop(loader)


def test_a_state_that_was_loaded_is_the_state_until_a_pass_begins() -> None:
    loader = _loader("generator", num_workers=1)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    del iterator
    other = _loader("generator", num_workers=1)
    other.load_state_dict(state)
    assert other.state_dict() == state


def test_saving_twice_and_going_on_twice() -> None:
    loader = _loader("shuffle", order="ready", num_workers=2)
    seen: list[Any] = []
    for _ in range(4):
        iterator = iter(loader)
        seen += _rows(itertools.islice(iterator, 3))
        state = loader.state_dict()
        del iterator
        loader = _loader("shuffle", order="ready", num_workers=3)
        loader.load_state_dict(state)
    seen += _rows(loader)
    assert sorted(row[0] for row in seen) == list(range(NUM_SAMPLES))


def test_the_learned_costs_are_saved() -> None:
    loader = _loader("sequential", num_workers=2)
    list(loader)
    assert loader.costs.is_useful
    other = _loader("sequential", num_workers=2)
    other.load_state_dict(loader.state_dict())
    slow = np.arange(0, NUM_SAMPLES, 7)
    assert other.costs.predict(slow) == pytest.approx(loader.costs.predict(slow), rel=0.05)


def test_a_dataset_with_a_state_is_saved_and_restored() -> None:
    class Curriculum(Noisy):
        level = 0

        def state_dict(self) -> dict[str, int]:
            return {"level": self.level}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.level = state["level"]

    dataset = Curriculum()
    dataset.level = 3
    state = DataLoader(dataset, BATCH).state_dict()
    other = DataLoader(Curriculum(), BATCH)
    other.load_state_dict(state)
    assert other.dataset.level == 3  # type: ignore[attr-defined]


def test_a_failure_counts_as_delivered() -> None:
    class Fails(Noisy):
        def __getitem__(self, index: int) -> Any:
            if index == 5:
                raise KeyError(index)
            return index

    loader = DataLoader(Fails(), BATCH, num_workers=2, order="strict")
    iterator = iter(loader)
    assert next(iterator).tolist() == [0, 1, 2, 3]
    with pytest.raises(KeyError):
        next(iterator)
    state = loader.state_dict()
    del iterator
    loader.load_state_dict(state)
    assert next(iter(loader)).tolist() == [8, 9, 10, 11]


def test_the_state_is_small() -> None:
    loader = DataLoader(range(100_000), 100, shuffle=True, num_workers=1, order="ready")  # type: ignore[arg-type]
    iterator = iter(loader)
    for _ in range(500):
        next(iterator)
    file = io.BytesIO()
    torch.save(loader.state_dict(), file)
    assert file.tell() < 20_000


@pytest.mark.parametrize(
    ("saved", "loaded", "said"),
    [
        ({}, {"batch_size": 5}, "batch_size 4, this loader has 5"),
        ({}, {"drop_last": True}, "drop_last False, this loader has True"),
        ({}, {"seeding": "torch"}, "seeding 'position', this loader has 'torch'"),
        ({}, {"shuffle": True}, "sampler 'SequentialSampler', this loader has 'RandomSampler'"),
        (
            {"shuffle": True, "generator": _generator()},
            {"shuffle": True, "generator": torch.Generator().manual_seed(6)},
            "generator seed 5, this loader has 6",
        ),
        ({}, {"dataset": range(7)}, "dataset length 50, this loader has 7"),
        (
            {"sampler": DistributedSampler(Noisy(), num_replicas=2, rank=1)},
            {"sampler": DistributedSampler(Noisy(), num_replicas=2, rank=0)},
            "sampler's rank 1, this loader has 0",
        ),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_a_state_of_another_loader_is_refused(saved: Any, loaded: Any, said: str) -> None:
    state = DataLoader(**{"dataset": Noisy(), "batch_size": BATCH, **saved}).state_dict()
    other = DataLoader(**{"dataset": Noisy(), "batch_size": BATCH, **loaded})
    with pytest.raises(StateError, match=said):
        other.load_state_dict(state)
    assert len(list(other)) == len(other)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda _: None, "not a state"),
        (lambda _: {"epoch": 3}, "not a state"),
        (lambda state: {**state, "version": 2}, "version 2"),
        (lambda state: {"version": 1, "loader": state["loader"]}, "it lacks"),
    ],
)
def test_garbage_is_refused(spoil: Any, said: str) -> None:
    loader = _loader("shuffle")
    with pytest.raises(StateError, match=said):
        loader.load_state_dict(spoil(loader.state_dict()))


def test_parts_of_batches_cannot_go_on_in_strict_order() -> None:
    loader = _loader("shuffle", order="ready", num_workers=1)
    iterator = iter(loader)
    next(iterator)
    state = copy.deepcopy(loader.state_dict())
    del iterator
    state["pass"]["progress"]["ranges"] = [(0, 3), (4, 5)]
    with pytest.raises(StateError, match="order='ready'"):
        _loader("shuffle", order="strict").load_state_dict(state)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_sampler_that_yields_something_else_is_refused(num_workers: int) -> None:
    class Unseeded(Sampler[int]):
        def __iter__(self) -> Any:
            return iter(random.SystemRandom().sample(range(NUM_SAMPLES), NUM_SAMPLES))

        def __len__(self) -> int:
            return NUM_SAMPLES

    loader = DataLoader(Noisy(), BATCH, sampler=Unseeded(), num_workers=num_workers)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    del iterator
    loader.load_state_dict(state)
    with pytest.raises(StateError, match="does not yield what it yielded"):
        list(loader)


SCRIPT = """
import os, sys, torch
sys.path[:0] = [{root!r}]
from hatchway import DataLoader
from tests.real.test_resume import Noisy

path, num_workers = sys.argv[1], int(sys.argv[2])
loader = DataLoader(Noisy(), 4, shuffle=True, order="ready", num_workers=num_workers)
if os.path.exists(path):
    state, seen = torch.load(path, weights_only=True)
    loader.load_state_dict(state)
else:
    seen = []
for batch in loader:
    seen += batch[0].tolist()
    torch.save((loader.state_dict(), seen), path + ".new")
    os.replace(path + ".new", path)
    print(len(seen), flush=True)
print("over", *seen, flush=True)
"""


def test_killed_at_any_moment_it_goes_on_from_the_last_saved_state(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    path = tmp_path / "state"
    chance = random.Random(os.urandom(4).hex())
    for turn in range(40):
        command = [sys.executable, "-c", SCRIPT.format(root=root), str(path), str(turn % 3 + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(chance.randrange(1, 6)):
                line = child.stdout.readline()
                if not line or line.startswith("over"):
                    break
            else:
                time.sleep(chance.random() * 0.01)
                child.send_signal(signal.SIGKILL)
                continue
            break
    assert line.startswith("over"), "forty runs were not enough"
    assert sorted(map(int, line.split()[1:])) == list(range(NUM_SAMPLES))


def test_a_replacement_sampler_repeats_indices_and_each_position_comes_once() -> None:
    def make() -> DataLoader[Any]:
        shared = _generator()
        sampler = RandomSampler(Noisy(), replacement=True, num_samples=80, generator=shared)
        return DataLoader(
            Noisy(), BATCH, sampler=sampler, num_workers=2, order="ready", generator=shared
        )

    whole = sorted(_rows(make()))
    first = make()
    iterator = iter(first)
    before = _rows(next(iterator) for _ in range(7))
    state = first.state_dict()
    del iterator
    second = make()
    second.load_state_dict(state)
    assert sorted(before + _rows(second)) == whole
