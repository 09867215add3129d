"""The clock of the simulator jumps from event to event, and cores are shared evenly."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hatchway.loader.simulator.clock import Cores, Timeline


def noting(timeline: Timeline, times_s: dict[str, float], name: str) -> Callable[[], None]:
    def note() -> None:
        times_s[name] = timeline.now_s

    return note


def test_events_happen_in_the_order_of_their_times_then_of_their_planning() -> None:
    timeline, seen = Timeline(), []
    for name, at_s in (("late", 2.0), ("first", 1.0), ("second", 1.0)):
        timeline.at(at_s, lambda name=name: seen.append(name))  # type: ignore[misc]
    timeline.run()
    assert seen == ["first", "second", "late"]


def test_an_event_that_is_cancelled_does_not_happen() -> None:
    timeline, seen = Timeline(), []
    timeline.at(1.0, lambda: seen.append("no")).cancel()
    timeline.run()
    assert seen == []


def test_what_is_planned_for_the_past_happens_now() -> None:
    timeline, times_s = Timeline(), {}
    timeline.at(2.0, lambda: timeline.at(1.0, noting(timeline, times_s, "a")) and None)
    timeline.run()
    assert times_s == {"a": 2.0}


@pytest.mark.parametrize(
    ("num_cores", "expected"),
    [
        (None, {"a": 1.0, "b": 1.5}),
        (2.0, {"a": 1.0, "b": 1.5}),
        # a runs alone for 0.5 s, then at half speed; b has the core to itself from 1.5 s on.
        (1.0, {"a": 1.5, "b": 2.0}),
        (0.5, {"a": 3.5, "b": 4.0}),
    ],
)
def test_more_samples_than_cores_run_at_a_part_of_the_speed(
    num_cores: float | None, expected: dict[str, float]
) -> None:
    timeline, times_s = Timeline(), {}
    cores = Cores(timeline, num_cores)
    cores.run(1.0, noting(timeline, times_s, "a"))
    timeline.at(0.5, lambda: cores.run(1.0, noting(timeline, times_s, "b")))
    timeline.run()
    assert times_s == pytest.approx(expected)
