"""The same script with stock torch and with Hatchway: the same batches, or samples."""

from __future__ import annotations

import gc
from collections import Counter
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch.utils.data

from hatchway import DataLoader
from tests.real.script import SETTINGS, TIMEOUT_S, Epoch, read, run
from tests.real.shapes import NUM_SAMPLES, SHAPES, unbatch

pytestmark = pytest.mark.real

SHAPE = pytest.mark.parametrize("shape", SHAPES)
# What changes how batches are made; the other settings change how keys travel.
FREE = (
    "sequential",
    "shuffle",
    "drop_last",
    "batch_size 1",
    "batch_size 22, last of one",
    "batch_size None",
    "own batches",
    "tuples as keys",
    "persistent over 3 epochs",
)


@cache
def stock(shape: str, setting: str) -> list[Epoch]:
    arguments = SETTINGS[setting]
    # Stock torch gives the same batches with workers and without, sooner:
    # the slow way once for each setting, and where the setting needs workers.
    needs_workers = {"prefetch_factor", "persistent_workers"} & set(arguments)
    num_workers = 1 if needs_workers or shape in ("fixed", "failing") else 0
    epochs = run(torch.utils.data.DataLoader, shape, num_workers=num_workers, **arguments)
    # Stock torch's exceptions hold on to their iterator, and that to its workers.
    gc.collect()
    return epochs


def hatchway(shape: str, setting: str, num_workers: int, order: str, **more: Any) -> list[Epoch]:
    arguments = SETTINGS[setting] | more
    if not num_workers:
        arguments = {
            name: value
            for name, value in arguments.items()
            if name not in ("prefetch_factor", "persistent_workers")
        }
    return run(DataLoader, shape, num_workers=num_workers, order=order, **arguments)


def assert_same(ours: list[Epoch], theirs: list[Epoch]) -> None:
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert one.outcomes == other.outcomes, f"epoch {number}"


@pytest.mark.parametrize(
    ("shape", "setting"),
    # After a failure stock torch takes five seconds to stop persistent workers.
    [pair for pair in product(SHAPES, SETTINGS) if pair != ("failing", "persistent over 3 epochs")],
)
def test_in_strict_order_two_workers_give_the_batches_of_stock_torch(
    shape: str, setting: str
) -> None:
    assert_same(hatchway(shape, setting, 2, "strict"), stock(shape, setting))


@SHAPE
@pytest.mark.parametrize("setting", ["own batches", "batch_size None", "drop_last"])
def test_in_strict_order_one_worker_gives_the_batches_of_stock_torch(
    shape: str, setting: str
) -> None:
    assert_same(hatchway(shape, setting, 1, "strict"), stock(shape, setting))


@SHAPE
def test_without_workers_the_batches_are_those_of_stock_torch(shape: str) -> None:
    for setting in SETTINGS:
        if "persistent" not in setting:
            assert_same(hatchway(shape, setting, 0, "ready"), stock(shape, setting))


@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "failing"])
@pytest.mark.parametrize("setting", FREE)
def test_in_ready_order_the_samples_are_those_of_stock_torch(shape: str, setting: str) -> None:
    epochs = zip(hatchway(shape, setting, 2, "ready"), stock(shape, setting), strict=True)
    for ours, theirs in epochs:
        assert ours.samples == theirs.samples
        assert not ours.errors
        if setting == "own batches":
            assert Counter(ours.outcomes) == Counter(theirs.outcomes)
        else:
            assert ours.sizes == theirs.sizes


@pytest.mark.parametrize("setting", ["sequential", "shuffle", "persistent over 3 epochs"])
def test_in_ready_order_a_failed_sample_takes_no_others_with_it(setting: str) -> None:
    failed = sum(number % 7 == 3 for number in range(NUM_SAMPLES))
    for ours in hatchway("failing", setting, 2, "ready"):
        assert ours.errors == {KeyError: failed}
        assert ours.sizes == [4] * ((NUM_SAMPLES - failed) // 4)
        assert ours.samples.total() == len(ours.samples) == NUM_SAMPLES - failed


def test_in_ready_order_batches_of_a_batch_sampler_fail_as_a_whole() -> None:
    for setting in ("own batches", "batch_size None"):
        (ours,) = hatchway("failing", setting, 2, "ready")
        (theirs,) = stock("failing", setting)
        assert ours.errors == theirs.errors
        assert ours.samples == theirs.samples


def test_drop_last_drops_the_rest_in_ready_order_although_samples_failed() -> None:
    (ours,) = hatchway("failing", "drop_last", 2, "ready")
    assert set(ours.sizes) == {4}
    read = NUM_SAMPLES // 4 * 4
    assert read - 4 < ours.samples.total() + ours.errors.total() <= read


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_the_default_collate_of_ragged_samples_fails_with_the_type_that_torch_raises(
    order: str,
) -> None:
    ragged = [torch.zeros(number % 6) for number in range(12)]
    theirs = read(torch.utils.data.DataLoader(ragged, 4, num_workers=1), unbatch)
    gc.collect()
    ours = read(DataLoader(ragged, 4, num_workers=2, order=order, timeout=TIMEOUT_S), unbatch)
    assert ours.errors == theirs.errors == {RuntimeError: 3}


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_the_seed_of_torch_decides_the_order_of_a_shuffle(order: str) -> None:
    (one,) = hatchway("tiny", "shuffle", 2, order, batch_size=NUM_SAMPLES)
    (same,) = hatchway("tiny", "shuffle", 1, order, batch_size=NUM_SAMPLES)
    (other,) = hatchway("tiny", "shuffle with a generator", 1, order, batch_size=NUM_SAMPLES)
    assert one.outcomes == same.outcomes != other.outcomes
