"""The demo tells when other programs disturbed its comparison."""

from __future__ import annotations

import pytest

from hatchway.cli.demo.neighbours import CpuTime, others_share, parse_cpu_time, read_cpu_time

STAT = """\
cpu  100 20 30 4000 50 6 7 8 9 0
cpu0 50 10 15 2000 25 3 3 4 4 0
cpu1 50 10 15 2000 25 3 4 4 5 0
intr 12345
ctxt 678
"""


def moment(now_s: float, busy_s: float, own_s: float) -> CpuTime:
    return CpuTime(now_s, busy_s, own_s, num_cpus=2)


def test_idle_time_is_not_busy_and_guests_are_not_counted_twice() -> None:
    reading = parse_cpu_time(STAT, now_s=1.0, own_s=2.0, ticks_per_s=100)
    assert reading == CpuTime(1.0, 1.71, 2.0, 2)


def test_what_this_process_did_not_use_was_used_by_others() -> None:
    assert others_share(moment(0.0, 100.0, 1.0), moment(10.0, 118.0, 14.0)) == pytest.approx(0.25)


def test_rounding_never_gives_a_negative_share() -> None:
    assert others_share(moment(0.0, 100.0, 1.0), moment(10.0, 101.0, 2.1)) == 0.0


def test_a_machine_without_accounting_gives_no_share() -> None:
    assert others_share(None, read_cpu_time()) is None


@pytest.mark.parametrize("stat", ["cpu 1 2\n", "cpu a b c d e f g h\n", ""])
def test_another_form_of_accounting_is_refused(stat: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_cpu_time(stat, now_s=0.0, own_s=0.0, ticks_per_s=100)
