"""``loader.statistics()`` tells what really happened."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest
import torch

from hatchway import DataLoader
from hatchway.loader import LoaderStatistics
from tests.real.augmented import Augmented
from tests.real.gates import CONTEXT, PATIENCE_S, Gated, numbers

pytestmark = pytest.mark.real


def load(dataset: Any, batch_size: int | None = 4, **arguments: Any) -> DataLoader[Any]:
    chosen: dict[str, Any] = {
        "num_workers": 2,
        "timeout": PATIENCE_S,
        "multiprocessing_context": CONTEXT,
    }
    return DataLoader(dataset, batch_size, **(chosen | arguments))


def test_before_the_first_epoch_there_is_nothing_to_tell() -> None:
    assert load([1]).statistics() == LoaderStatistics()
    assert LoaderStatistics().wait_share == 0.0


def test_a_snapshot_cannot_be_changed_and_does_not_change() -> None:
    loader = load(list(range(40)))
    iterator = iter(loader)
    next(iterator)
    snapshot = loader.statistics()
    picture = dataclasses.asdict(snapshot)
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.num_samples = 3  # type: ignore[misc]
    list(iterator)
    assert dataclasses.asdict(snapshot) == picture
    assert loader.statistics().num_samples == 40


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("order", ["strict", "ready"])
def test_totals_are_those_of_the_latest_pass(num_workers: int, order: str) -> None:
    loader = DataLoader(list(range(22)), 4, num_workers=num_workers, order=order)
    for _ in range(2):
        begun = time.monotonic()
        batches = list(loader)
        elapsed = time.monotonic() - begun
        statistics = loader.statistics()
        assert (statistics.num_samples, statistics.num_batches) == (22, len(batches)) == (22, 6)
        assert 0.0 <= statistics.wait_share <= 1.0
        assert 0.0 < statistics.first_batch_s <= statistics.wait_s <= statistics.wall_s <= elapsed
        assert statistics.longest_wait_s <= statistics.wait_s
        assert list(statistics.sample_time_quantiles_s) == sorted(
            statistics.sample_time_quantiles_s
        )
        assert statistics.num_restarts == statistics.num_background_workers == 0
        assert statistics.num_workers_alive == 0
        # Without workers nothing can overtake, whatever was asked for.
        assert statistics.order == (order if num_workers else "strict")


def test_each_batch_is_counted_when_it_is_handed_over() -> None:
    loader = load(list(range(40)), persistent_workers=True)
    for _ in range(2):
        for number, _batch in enumerate(loader, 1):
            assert loader.statistics().num_batches == number
            assert loader.statistics().num_samples == 4 * number
            assert loader.statistics().num_workers_alive == 2
    assert loader.statistics().num_batches == 10


def test_they_stay_after_a_break_and_after_the_iterator_is_gone() -> None:
    loader = load(list(range(40)))
    for number, _ in enumerate(loader):
        if number == 2:
            break
    assert loader.statistics().num_batches == 3
    assert loader.statistics().num_workers_alive == 0


def test_an_older_iterator_that_goes_away_does_not_overwrite_the_latest() -> None:
    loader = load(list(range(40)), num_workers=1)
    older = iter(loader)
    next(older)
    assert len(list(loader)) == 10
    del older
    assert loader.statistics().num_batches == 10


def test_the_loop_that_waits_for_everything_has_waited_all_the_time() -> None:
    # Between two requests this loop does nothing.
    loader = load(list(range(64)), num_workers=1)
    list(loader)
    busy = loader.statistics().wait_share
    iterator = iter(loader)
    next(iterator)
    begun = time.monotonic()
    while time.monotonic() < begun + 0.3:
        pass  # a training step
    list(iterator)
    assert busy > loader.statistics().wait_share
    assert loader.statistics().wall_s - loader.statistics().wait_s >= 0.3


class Costly(torch.utils.data.Dataset[Any]):
    """Fails after a while."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> Any:
        time.sleep(0.2)  # what the failing sample costs
        raise KeyError(number)


def test_waiting_for_a_failure_is_waiting() -> None:
    loader = load(Costly(), num_workers=1)
    with pytest.raises(KeyError) as caught:
        next(iter(loader))
    del caught
    assert loader.statistics().wait_s >= 0.2
    assert loader.statistics().num_batches == 0


@pytest.mark.parametrize(
    "batches",
    [
        {"batch_size": 4},
        {"batch_size": None},
        {"batch_size": 1, "batch_sampler": [[*range(n, n + 4)] for n in range(0, 40, 4)]},
    ],
    ids=["fours", "single samples", "own batches"],
)
def test_displaced_samples_are_counted_as_they_left(batches: dict[str, Any]) -> None:
    dataset = Gated(40, held={0, 9})
    loader = load(dataset, order="ready", slow_after_s=0.02, **batches)
    iterator = iter(loader)
    # As many batches as can be made without the two that are held.
    free = {4: 9, None: 38, 1: 8}[batches["batch_size"]]
    left = [number for _ in range(free) for number in numbers(next(iterator))]
    dataset.gate.set()
    left += [number for batch in iterator for number in numbers(batch)]
    late = [rank - number for rank, number in enumerate(left) if rank > number]
    statistics = loader.statistics()
    assert sorted(left) == list(range(40))
    assert statistics.num_displaced == len(late) >= 2
    assert statistics.max_displacement == max(late) >= 32
    assert statistics.displacement_quantiles[0] <= statistics.displacement_quantiles[2]


def test_in_strict_order_nothing_is_displaced() -> None:
    dataset = Gated(16, after={0: 3})
    loader = load(dataset, order="strict")
    list(loader)
    assert loader.statistics().num_displaced == loader.statistics().max_displacement == 0


def test_times_of_samples_and_the_cut_are_seconds() -> None:
    loader = load(list(range(400)), order="ready", slow_after_s=1.25)
    list(loader)
    statistics = loader.statistics()
    assert statistics.slow_after_s == 1.25
    assert 0.0 < statistics.sample_time_quantiles_s[0] < 0.1


def test_the_bound_of_the_buffer_is_what_was_asked_for() -> None:
    loader = load(list(range(40)), buffer_bytes=3 << 20)
    iterator = iter(loader)
    next(iterator)
    assert loader.statistics().buffer_bytes == 3 << 20
    assert 0 < loader.statistics().buffer_peak_bytes <= 3 << 20


def test_restarts_are_counted() -> None:
    loader = load(Augmented(deadly=9), collate_fn=list, order="strict")
    assert len(list(loader)) == 3
    assert loader.statistics().num_restarts == 1
    assert loader.statistics().num_samples == 12
