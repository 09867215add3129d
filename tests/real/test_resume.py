"""A loader that was saved goes on, in another process or here, with what was not delivered."""

from __future__ import annotations

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
    RandomSampler,
)

from hatchway import DataLoader
from tests.real.resumable import (
    BATCH,
    NUM_SAMPLES,
    SETTINGS,
    Noisy,
    make,
    pickled,
    rows_of,
    seeded,
    stop,
)

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize("name", SETTINGS)
def test_what_comes_after_is_what_would_have_come(name: str, order: str) -> None:
    torch.manual_seed(11)
    whole = make(name, order=order, num_workers=2)
    epochs = [rows_of(whole) for _ in range(2)]
    for cut, num_workers in ((0, 3), (1, 0), (5, 1), (len(whole), 3)):
        torch.manual_seed(11)
        first = make(name, order=order, num_workers=2)
        iterator = iter(first)
        before = rows_of(next(iterator) for _ in range(cut))
        state = first.state_dict()
        elsewhere = torch.get_rng_state()  # as a training script saves it, too
        del iterator
        torch.manual_seed(99)
        second = make(name, order=order, num_workers=num_workers)
        second.load_state_dict(pickled(state))
        torch.set_rng_state(elsewhere)
        after = rows_of(second)
        again = rows_of(second)
        if order == "strict":
            assert before + after == epochs[0]
            assert again == epochs[1]
        elif name != "drop_last":  # which samples are dropped may differ
            assert sorted(before + after) == sorted(epochs[0])
            assert sorted(again) == sorted(epochs[1])


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_persistent_workers_go_on_with_their_epochs(order: str) -> None:
    def build() -> DataLoader[Any]:
        return make("generator", order=order, num_workers=2, persistent_workers=True, timeout=30)

    whole = build()
    epochs = [sorted(rows_of(whole)) for _ in range(4)]
    stop(whole)
    for num_epochs, cut in ((0, 3), (1, 0), (1, 6), (2, 13)):
        first = build()
        for _ in range(num_epochs):
            rows_of(first)
        iterator = iter(first) if cut else None
        before = rows_of(next(iterator) for _ in range(cut))
        state = first.state_dict()
        del iterator
        stop(first)
        second = build()
        second.load_state_dict(state)
        assert sorted(before + rows_of(second)) == epochs[num_epochs]
        assert sorted(rows_of(second)) == epochs[num_epochs + 1]
        stop(second)


def test_a_state_can_be_loaded_while_workers_wait() -> None:
    loader = make("generator", num_workers=2, persistent_workers=True, timeout=30)
    iterator = iter(loader)
    before = rows_of(next(iterator) for _ in range(4))
    state = loader.state_dict()
    rest = sorted(rows_of(iterator))
    next(iter(loader))
    for _ in range(2):
        loader.load_state_dict(state)
        assert sorted(rows_of(loader)) == rest
    assert not set(rest) & set(before)
    del iterator
    stop(loader)


def test_a_state_that_was_loaded_is_the_state_until_a_pass_begins() -> None:
    loader = make("generator", num_workers=1)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    del iterator
    other = make("generator", num_workers=1)
    other.load_state_dict(state)
    assert other.state_dict() == state


def test_saving_twice_and_going_on_twice() -> None:
    loader = make("shuffle", order="ready", num_workers=2)
    seen: list[Any] = []
    for _ in range(4):
        iterator = iter(loader)
        seen += rows_of(itertools.islice(iterator, 3))
        state = loader.state_dict()
        del iterator
        loader = make("shuffle", order="ready", num_workers=3)
        loader.load_state_dict(state)
    seen += rows_of(loader)
    assert sorted(row[0] for row in seen) == list(range(NUM_SAMPLES))


def test_the_learned_costs_are_saved() -> None:
    loader = make("sequential", num_workers=2)
    list(loader)
    assert loader.costs.is_useful
    other = make("sequential", num_workers=2)
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


SCRIPT = """
import os, sys, torch
sys.path[:0] = [{root!r}]
from hatchway import DataLoader
from tests.real.resumable import Noisy

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
    def build() -> DataLoader[Any]:
        shared = seeded()
        sampler = RandomSampler(Noisy(), replacement=True, num_samples=80, generator=shared)
        return DataLoader(
            Noisy(), BATCH, sampler=sampler, num_workers=2, order="ready", generator=shared
        )

    whole = sorted(rows_of(build()))
    first = build()
    iterator = iter(first)
    before = rows_of(next(iterator) for _ in range(7))
    state = first.state_dict()
    del iterator
    second = build()
    second.load_state_dict(state)
    assert sorted(before + rows_of(second)) == whole


@pytest.mark.parametrize("persistent", [False, True])
def test_an_epoch_that_was_set_after_loading_holds(persistent: bool) -> None:
    def build() -> DataLoader[Any]:
        return make("distributed", order="strict", num_workers=1, persistent_workers=persistent)

    first, second = build(), build()
    rows_of(first)
    state = first.state_dict()
    for loader in (first, second):
        if loader is second:
            loader.load_state_dict(state)
        loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    assert [row[0] for row in rows_of(second)] == [row[0] for row in rows_of(first)]
    stop(first)
    stop(second)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_last_smaller_batch_is_the_samplers(num_workers: int) -> None:
    first = make("subset", order="ready", num_workers=1)
    before = rows_of(itertools.islice(first, 10))  # 37 samples of a dataset of 50
    second = make("subset", order="strict", num_workers=num_workers)
    second.load_state_dict(first.state_dict())
    assert len(before + rows_of(second)) == 37
