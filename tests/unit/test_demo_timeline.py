"""The demo's interval arithmetic: busy and waiting stretches make up the epoch."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatchway.cli.demo.timeline import Interval, Timeline

# Eighths of a second are exact in binary, so sums can be compared with ==.
LENGTHS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda pair: (pair[0] / 8, pair[1] / 8)),
    min_size=1,
    max_size=20,
)


def timeline(*steps: tuple[float, float]) -> Timeline:
    return Timeline.from_steps(steps, started_s=0.0)


def test_the_epoch_ends_with_the_last_step() -> None:
    assert timeline((1.0, 2.0), (3.0, 5.0)).epoch_s == 5.0


def test_readings_of_the_clock_are_counted_from_the_start_of_the_epoch() -> None:
    assert Timeline.from_steps([(101.0, 102.5)], started_s=100.0).busy == (Interval(1.0, 2.5),)


def test_each_gap_is_a_wait_and_steps_back_to_back_leave_none() -> None:
    busy = timeline((1.0, 2.0), (2.0, 3.0), (4.5, 5.0))
    assert busy.waits == (Interval(0.0, 1.0), Interval(3.0, 4.5))


def test_the_longest_wait_leaves_out_the_first_batch() -> None:
    busy = timeline((5.0, 6.0), (6.5, 7.0), (8.0, 9.0))
    assert busy.first_batch_s == 5.0
    assert busy.longest_wait_s == 1.0


def test_a_step_at_the_very_start_is_no_wait() -> None:
    assert timeline((0.0, 1.0)).waits == ()


def test_an_epoch_without_steps_has_no_figures_and_no_division_by_zero() -> None:
    empty = timeline()
    assert (empty.epoch_s, empty.busy_share, empty.first_batch_s, empty.longest_wait_s) == (0,) * 4
    assert empty.waits == ()


@given(LENGTHS)
def test_busy_stretches_and_waits_tile_the_epoch(lengths: list[tuple[float, float]]) -> None:
    steps, now_s = [], 0.0
    for wait_s, step_s in lengths:
        steps.append((now_s + wait_s, now_s + wait_s + step_s))
        now_s = steps[-1][1]
    lanes = timeline(*steps)
    assert lanes.busy_s + sum(wait.length_s for wait in lanes.waits) == lanes.epoch_s
    stretches = sorted(
        (stretch for stretch in (*lanes.busy, *lanes.waits) if stretch.length_s),
        key=lambda stretch: stretch.start_s,
    )
    assert all(earlier.end_s == later.start_s for earlier, later in pairwise(stretches))


def test_overlapping_steps_are_refused_with_both_times() -> None:
    with pytest.raises(ValueError, match=r"starts at 1\.5 s, before 2\.0 s"):
        timeline((1.0, 2.0), (1.5, 3.0))


def test_an_interval_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"end_s=1\.0"):
        Interval(2.0, 1.0)
