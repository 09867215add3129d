"""The meter behind ``loader.statistics()``, on made-up epochs."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from hatchway.loader.statistics import LoaderStatistics, Meter, StatisticsBox


def metered(order: np.ndarray, batch_size: int) -> LoaderStatistics:
    """Statistics of an epoch whose samples left in this order."""
    meter = Meter()
    for first in range(0, len(order), batch_size):
        ranks = order[first : first + batch_size]
        asked = meter.asked()
        meter.displaced(ranks, first)
        meter.answered(asked, len(ranks))
    return meter.snapshot()


@pytest.mark.parametrize("seed", range(5))
def test_displacements_are_counted_as_numpy_counts_them(seed: int) -> None:
    generator = np.random.default_rng(seed)
    # 997 is prime: no quantile falls between two samples.
    keys = np.arange(997) + generator.exponential(5 * seed, 997)
    order = np.argsort(keys)
    late = np.maximum(np.arange(997) - order, 0)
    found = metered(order, 7)
    assert found.num_displaced == np.count_nonzero(late)
    assert found.max_displacement == late.max()
    expected = np.quantile(late, (0.5, 0.9, 0.99), method="inverted_cdf")
    assert found.displacement_quantiles == tuple(expected.tolist())


def test_samples_that_leave_early_are_not_displaced() -> None:
    found = metered(np.array([1, 2, 3, 0]), 4)
    assert (found.num_displaced, found.max_displacement) == (1, 3)
    assert found.displacement_quantiles == (0, 3, 3)


def test_batches_and_samples_are_counted_and_failures_are_not() -> None:
    meter = Meter()
    meter.answered(meter.asked(), 4)
    meter.answered(meter.asked(), 0)
    meter.answered(meter.asked(), 3)
    found = meter.snapshot()
    assert (found.num_batches, found.num_samples) == (2, 7)


def test_waiting_is_measured_from_request_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 12.0, 15.0, 16.0, 18.0, 18.5])
    monkeypatch.setattr("hatchway.loader.statistics.time.monotonic", lambda: next(times))
    meter = Meter()
    for num_samples in (4, 4, 0):
        meter.answered(meter.asked(), num_samples)
    found = meter.snapshot()
    assert found.wall_s == 8.5
    assert found.wait_s == 2 + 1 + 0.5
    assert found.first_batch_s == 2.0
    assert found.longest_wait_s == 1.0
    assert found.wait_share == 3.5 / 8.5


class Source:
    """Stands for an iterator."""

    def __init__(self, num_batches: int) -> None:
        self.num_batches = num_batches

    def statistics(self) -> LoaderStatistics:
        return LoaderStatistics(num_batches=self.num_batches)


def test_the_box_tells_what_the_latest_source_does_while_it_lives() -> None:
    box = StatisticsBox()
    assert box.read() == LoaderStatistics()
    first, second = Source(1), Source(2)
    box.follow(first)
    assert box.read().num_batches == 1
    box.follow(second)
    first.num_batches = 7
    assert box.read().num_batches == 2


def test_the_box_keeps_the_last_of_the_latest_source_only() -> None:
    box = StatisticsBox()
    first, second = Source(1), Source(2)
    box.follow(first)
    box.follow(second)
    box.keep(second, second.statistics())
    box.keep(first, first.statistics())
    assert box.read().num_batches == 2


def test_the_box_does_not_keep_a_source_alive() -> None:
    class Dying(Source):
        def __del__(self) -> None:
            box.keep(self, self.statistics())

    box = StatisticsBox()
    source = Dying(5)
    box.follow(source)
    gc.disable()
    try:
        del source
        assert box.read().num_batches == 5
    finally:
        gc.enable()
