"""Same seed, same samples: what a sample draws depends on its place and on nothing else."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from torch.utils.data import get_worker_info

from hatchway import DataLoader
from tests.real.augmented import NUM_SAMPLES, Augmented, as_list, draw, epochs
from tests.real.gates import CONTEXT, PATIENCE_S, Gated

pytestmark = pytest.mark.real
ORDER = pytest.mark.parametrize("order", ["strict", "ready"])


@ORDER
@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize(
    "batches",
    [{}, {"batch_size": 1}, {"batch_size": 1, "batch_sampler": [[0, 1], [2], [*range(3, 12)]]}],
    ids=["fours", "ones", "own batches"],
)
def test_augmentations_do_not_depend_on_workers_order_or_batches(
    order: str, num_workers: int, batches: dict[str, Any]
) -> None:
    drawn = epochs(1, num_workers=num_workers, order=order, **batches)
    assert drawn == epochs(1)
    assert len(drawn[0]) == NUM_SAMPLES


def test_augmentations_are_the_same_with_and_without_native_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.real.augmented"],
        env=os.environ | {"HATCHWAY_PURE_PYTHON": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = json.loads(json.dumps(epochs(2)))
    for name, drawn in json.loads(done.stdout).items():
        assert drawn == here, name


@ORDER
def test_a_sample_that_is_run_again_after_its_worker_was_killed_draws_the_same(order: str) -> None:
    assert epochs(1, num_workers=2, order=order, deadly=5) == epochs(1)


@pytest.mark.parametrize(
    "arguments", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}], ids=str
)
def test_no_two_positions_or_epochs_draw_the_same(arguments: dict[str, Any]) -> None:
    drawn = epochs(3, **arguments)
    seen = {value for epoch in drawn for values in epoch.values() for value in values[:2]}
    assert len(seen) == 2 * 3 * NUM_SAMPLES
    assert drawn == epochs(3, **arguments)


def test_a_dataset_index_that_comes_again_draws_anew() -> None:
    loader = DataLoader(Augmented(), 3, sampler=[5, 5, 5], collate_fn=as_list)
    (batch,) = loader
    assert [number for number, _ in batch] == [5, 5, 5]
    assert len({tuple(drawn) for _, drawn in batch}) == 3


def test_a_failed_sample_does_not_change_what_later_ones_draw() -> None:
    def drawn(num_workers: int) -> list[float]:
        torch.manual_seed(7)
        found = []
        iterator = iter(DataLoader(OneFails(), 4, num_workers=num_workers, collate_fn=as_list))
        while True:
            try:
                found += next(iterator, None) or [float("nan")]
            except KeyError:
                continue
            if found[-1] != found[-1]:
                return found[:-1]

    assert drawn(0) == drawn(1) == drawn(2)


class OneFails(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, number: int) -> float:
        if number == 1:
            raise KeyError(number)
        return random.random()


def test_without_workers_the_generators_of_the_training_process_stay_as_they_were() -> None:
    def states() -> Any:
        name, words, *rest = np.random.get_state()
        return random.getstate(), name, words.tolist(), rest, torch.get_rng_state().tolist()

    draw()
    iterator = iter(DataLoader(Augmented(), 4, collate_fn=as_list))  # draws torch's base seed
    before = states()
    assert len(list(iterator)) == 3
    assert states() == before


@ORDER
def test_with_workers_the_generators_of_the_training_process_move_as_with_stock_torch(
    order: str,
) -> None:
    def after(loader_class: Any, **more: Any) -> list[float]:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        loader = loader_class(list(range(10)), 3, shuffle=True, num_workers=1, **more)
        for _ in range(2):
            list(loader)
        return draw()

    assert after(DataLoader, order=order) == after(torch.utils.data.DataLoader)


def with_torch_seeds(loader_class: Any, num_workers: int, **more: Any) -> list[Any]:
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    loader = loader_class(
        Augmented(), 4, shuffle=True, collate_fn=as_list, num_workers=num_workers, **more
    )
    return [batch for _ in range(2) for batch in loader]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_torch_seeding_draws_what_stock_torch_draws_with_one_process(num_workers: int) -> None:
    # With more workers it depends on who runs what, with either loader.
    ours = with_torch_seeds(DataLoader, num_workers, seeding="torch", order="strict")
    assert ours == with_torch_seeds(torch.utils.data.DataLoader, num_workers)


class Informed(torch.utils.data.Dataset[Any]):
    """Tells what a worker knows about itself."""

    extra = "unset"

    def __len__(self) -> int:
        return 8

    def __getitem__(self, number: int) -> Any:
        info = get_worker_info()
        if info is None:
            return None
        return {
            "id": info.id,
            "num_workers": info.num_workers,
            "seed": info.seed - info.id,
            "dataset": info.dataset is self,
            "extra": self.extra,
            "threads": torch.get_num_threads(),
        }


def set_extra(worker_id: int) -> None:
    info = get_worker_info()
    assert info is not None
    assert info.id == worker_id
    info.dataset.extra = f"worker {worker_id}"  # type: ignore[attr-defined]


def informed(loader_class: Any, **more: Any) -> list[Any]:
    torch.manual_seed(5)
    loader = loader_class(
        Informed(), 2, num_workers=2, worker_init_fn=set_extra, collate_fn=as_list, **more
    )
    return [sample for batch in loader for sample in batch]


@ORDER
def test_worker_info_and_worker_init_fn_are_those_of_stock_torch(order: str) -> None:
    ours, theirs = informed(DataLoader, order=order), informed(torch.utils.data.DataLoader)
    assert {info["seed"] for info in ours} == {info["seed"] for info in theirs}
    for info in ours:
        assert info["extra"] == f"worker {info['id']}"
        assert info["id"] in (0, 1)
        same = {"num_workers": 2, "dataset": True, "threads": 1}
        assert {name: info[name] for name in same} == same
    assert get_worker_info() is None
    assert list(DataLoader(Informed(), 8, collate_fn=as_list)) == [[None] * 8]


def fail_to_start(worker_id: int) -> None:
    raise ZeroDivisionError(f"worker {worker_id}")


@ORDER
def test_a_failing_worker_init_fn_is_raised_with_its_type(order: str) -> None:
    loader = DataLoader(Informed(), 2, num_workers=1, worker_init_fn=fail_to_start, order=order)
    with pytest.raises(ZeroDivisionError, match="worker 0"):
        list(loader)


class Late(Gated):
    """Sample 0 ends last of its batch; sample 4 runs until that batch is collated."""

    def __init__(self) -> None:
        super().__init__(8)
        self.is_at_4 = CONTEXT.Event()

    def __getitem__(self, number: int) -> torch.Tensor:
        random.random()
        if get_worker_info() is not None:
            if number == 0:
                assert self.is_at_4.wait(PATIENCE_S)
            if number == 4:
                self.is_at_4.set()
                assert self.gate.wait(PATIENCE_S)
        return torch.tensor(number)

    def mix(self, samples: Any) -> float:
        self.gate.set()
        return random.random()


def test_what_a_collate_function_draws_does_not_depend_on_which_sample_was_last() -> None:
    def drawn(**more: Any) -> list[float]:
        torch.manual_seed(7)
        dataset = Late()
        return list(DataLoader(dataset, 4, collate_fn=dataset.mix, **more))

    workers = {"num_workers": 2, "multiprocessing_context": CONTEXT, "timeout": PATIENCE_S}
    assert drawn(**workers) == drawn()
