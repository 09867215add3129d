"""How long chunks are, and from when on a sample is slow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hatchway.loader.cost import (
    CHUNK_S,
    FIRST_CUT_S,
    LONGEST_CHUNK,
    BatchCost,
    ChunkSize,
    SampleTimes,
)


def test_the_first_chunk_is_one_sample() -> None:
    assert ChunkSize().next() == 1


@pytest.mark.parametrize(
    ("sample_s", "length"), [(1.0, 1), (CHUNK_S, 1), (CHUNK_S / 10, 10), (1e-9, LONGEST_CHUNK)]
)
def test_a_chunk_is_about_a_millisecond_of_work(sample_s: float, length: int) -> None:
    size = ChunkSize()
    for _ in range(60):
        count = size.next()
        assert 1 <= count <= LONGEST_CHUNK
        size.observe(count, count * sample_s)
    assert size.next() == length


def test_a_chunk_that_nobody_ran_changes_nothing() -> None:
    size = ChunkSize()
    size.observe(0, 5.0)
    assert size.next() == 1


def observed(seconds: np.ndarray, step: int, **arguments: float) -> SampleTimes:
    times = SampleTimes(arguments.pop("cut", 0.75), is_quantile=True, window=256)
    for first in range(0, len(seconds), step):
        times.observe(seconds[first : first + step])
    return times


@pytest.mark.parametrize("step", [1, 7, 64, 256, 300])
@pytest.mark.parametrize("count", [1, 40, 256, 1000])
def test_quantiles_are_numpys_over_the_most_recent_samples(step: int, count: int) -> None:
    seconds = np.random.default_rng(count).exponential(0.01, count).astype(np.float32)
    chances = (0.5, 0.75, 0.99, 1.0)
    found = observed(seconds, step).quantiles(*chances)
    # Between two samples either may be taken, or what lies between them.
    below = np.quantile(seconds[-256:], chances, method="lower")
    above = np.quantile(seconds[-256:], chances, method="higher")
    assert np.all((below <= found) & (found <= above))


def test_before_the_first_sample_the_quantiles_are_zeros() -> None:
    assert SampleTimes(0.75, is_quantile=True).quantiles(0.5, 1.0) == (0.0, 0.0)


def test_the_cut_waits_for_enough_samples() -> None:
    few = observed(np.full(15, 0.001, np.float32), 1)
    assert few.cut_s() == FIRST_CUT_S
    enough = observed(np.full(16, 0.001, np.float32), 1)
    assert enough.cut_s() == pytest.approx(0.002)


def test_the_cut_is_the_quantile_where_samples_differ_and_twice_the_median_where_not() -> None:
    even = observed(np.full(200, 0.01, np.float32), 8)
    assert even.cut_s() == pytest.approx(0.02)
    skewed = observed(np.tile(np.array([0.01, 0.01, 0.01, 0.5, 0.5], np.float32), 50), 8)
    assert skewed.cut_s() == pytest.approx(0.5)


def test_the_cut_follows_a_change_of_pace() -> None:
    slow_then_fast = np.repeat(np.array([0.1, 0.001], np.float32), 600)
    assert observed(slow_then_fast, 8).cut_s() == pytest.approx(0.002)


def test_a_cut_in_seconds_stays() -> None:
    times = SampleTimes(0.3, is_quantile=False)
    times.observe(np.full(500, 9.0, np.float32))
    assert times.cut_s() == 0.3


def times(count: int, seconds: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.full(count, seconds, np.float32)


def test_a_batch_is_made_whole_once_its_samples_are_known_to_be_cheap() -> None:
    cost = BatchCost(is_fixed=False)
    assert not cost.fits(2)
    for _ in range(20):
        cost.observe(times(8, 100e-6))
    assert cost.fits(64)
    assert not cost.fits(4096)


@pytest.mark.parametrize("is_fixed", [True, False])
def test_after_a_slow_sample_only_batches_that_wait_for_it_anyway_are_made_whole(
    is_fixed: bool,
) -> None:
    cost = BatchCost(is_fixed=is_fixed)
    for _ in range(20):
        cost.observe(times(8, 10e-6))
    cost.observe(np.array([10e-6] * 63 + [0.003], np.float32))
    assert cost.fits(8) == is_fixed
    for _ in range(32):
        cost.observe(times(32, 10e-6))
    assert cost.fits(8)


def test_slow_samples_are_handed_over_one_by_one() -> None:
    cost = BatchCost(is_fixed=True)
    for _ in range(50):
        cost.observe(times(1, 0.0015))
    assert not cost.fits(2)
