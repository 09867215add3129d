"""The benchmarks measure what they say: pure figures, the paced device, and one quick run."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.arguments import positive_ratios, writable
from benchmarks.counted import noise, spin
from benchmarks.device import PacedDevice
from benchmarks.displacement import Displacement, measure_displacement
from benchmarks.epoch import check_exactly_once
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Spread, by_repeat, paired_ratios, spread
from benchmarks.ideal import simulate
from benchmarks.loaders import LOADERS, shuffled, without_missing
from benchmarks.summary import RAW_FIGURES, summarise
from benchmarks.targets import TARGETS, outcomes
from benchmarks.workloads import WORKLOADS, Scale
from benchmarks.workloads.replay import SERVER, VIRTUAL_MACHINE, recorded_s

ROOT = Path(__file__).parents[2]
REPLAYS = ("replay-waiting", "replay-computing")


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def run(loader: str, repeat: int, epoch_s: float, error: str | None = None) -> dict[str, object]:
    figures = dict.fromkeys(RAW_FIGURES, 0.0)
    times = {"epoch_s": epoch_s, "first_batch_s": 1.0, "steady_s": epoch_s - 1}
    return {"loader": loader, "repeat": repeat, "error": error, **figures, **times}


def test_spread_is_the_median_between_the_extremes() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0, 4)
    assert spread([1.0, 2.0, 3.0]).text() == "2.00 [1.00-3.00]"
    assert spread([0.5]).text(0, 1e3) == "500"


def test_a_spread_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="values is empty"):
        spread([])


def test_ratios_pair_a_repeat_with_itself_and_drop_what_has_no_pair() -> None:
    assert paired_ratios({0: 2.0, 1: 9.0, 2: 1.0}, {0: 4.0, 1: 3.0}) == {0: 0.5, 1: 3.0}


def test_failed_runs_count_for_nothing() -> None:
    runs = [run("torch", 0, 4.0), run("torch", 1, 1.0, error="hung"), run("other", 0, 2.0)]
    assert by_repeat(runs, "torch", "epoch_s") == {0: 4.0}


def test_summary_takes_the_median_of_ratios_not_the_ratio_of_medians() -> None:
    runs = [
        run(loader, repeat, epoch_s)
        for loader, times in (("torch", (2.0, 4.0, 8.0)), ("hatchway", (1.0, 4.0, 2.0)))
        for repeat, epoch_s in enumerate(times)
    ]
    limits = [{"repeat": repeat, "limit_s": 2.0} for repeat in range(3)]
    figures = summarise(runs, limits)["hatchway"]
    assert figures["epoch_over_torch"]["median"] == 0.5
    assert figures["epoch_over_limit"]["median"] == 1.0
    assert figures["steady_over_limit"]["median"] == 0.5


def test_targets_are_met_at_the_median_and_named_for_every_workload_but_the_replays() -> None:
    summary = {"hatchway": {"steady_over_limit": {"median": 1.03}}}
    found = {o.target.figure: o.is_met for o in outcomes("even", summary)}
    assert found == {
        "steady_over_limit": True,
        "epoch_over_torch": False,
        "first_batch_over_torch": False,
    }
    assert {target.workload for target in TARGETS} == set(WORKLOADS) - set(REPLAYS)


def test_device_starts_a_step_when_batch_and_device_are_there() -> None:
    clock = FakeClock()
    device = PacedDevice(10.0, clock=clock, sleep=clock.sleep)
    clock.now = 3.0
    device.take()  # step 0 from 3 to 13
    clock.now = 5.0
    device.take()  # waits for step 0; step 1 from 13 to 23
    assert clock.now == 13.0
    clock.now = 30.0
    device.take()  # late: step 2 from 30 to 40
    assert device.finish() == clock.now == 40.0
    assert device.arrivals == [3.0, 5.0, 30.0]
    assert device.gaps_s == [0.0, 7.0]


def test_a_late_wake_up_does_not_lengthen_the_steps() -> None:
    clock = FakeClock()
    device = PacedDevice(10.0, clock=clock, sleep=lambda seconds: clock.sleep(seconds + 0.5))
    for _ in range(4):
        device.take()
    assert device.finish() == 40.0


def test_lost_and_doubled_samples_are_errors() -> None:
    check_exactly_once([torch.tensor([2, 0]), torch.tensor([1])], 3)
    with pytest.raises(BenchmarkError, match=r"1 lost \[1\], 1 doubled \[0\]"):
        check_exactly_once([torch.tensor([0, 0, 2])], 3)
    with pytest.raises(BenchmarkError, match="3 lost"):
        check_exactly_once([], 3)


def test_counted_work_is_a_function_of_its_count() -> None:
    assert spin(1000) == spin(1000) != spin(1001)
    assert noise(40_000).tolist() == noise(40_000).tolist() != noise(40_001).tolist()


def test_recordings_are_those_that_their_attribution_describes() -> None:
    for name, median_s, longest_s in ((SERVER, 0.011, 0.839), (VIRTUAL_MACHINE, 0.023, 1.345)):
        recorded = sorted(recorded_s(name))
        assert len(recorded) == 1680
        assert recorded[840] == pytest.approx(median_s, abs=5e-4)
        assert recorded[-1] == pytest.approx(longest_s, abs=5e-4)


def test_a_replay_waits_or_computes_the_recorded_times_scaled_to_an_epoch_of_four_seconds() -> None:
    scale = Scale(1680, seed=0, operation_s=1e-7, noise_value_s=1e-8)
    waiting, computing = (WORKLOADS[name] for name in REPLAYS)
    sleeps_s = waiting.build(scale).durations_s
    assert sleeps_s == pytest.approx([s / 6 for s in recorded_s(SERVER)])
    assert sum(sleeps_s) / waiting.num_workers == pytest.approx(4.15, abs=0.01)
    values = computing.build(scale).num_values
    assert values == [round(s / 30 / 1e-8) for s in recorded_s(VIRTUAL_MACHINE)]
    assert sum(values) * 1e-8 / computing.num_workers == pytest.approx(4.0, abs=0.01)
    assert {w.num_samples("full") for w in (waiting, computing)} == {1680}


@pytest.mark.parametrize("name", REPLAYS)
def test_a_replay_gives_the_same_samples_in_the_same_order_for_the_same_seed(name: str) -> None:
    scale = Scale(16, seed=3, operation_s=1e-7, noise_value_s=1e-8)
    first, again = (WORKLOADS[name].build(scale) for _ in range(2))
    assert list(shuffled(first, 3)) == list(shuffled(again, 3)) != list(shuffled(again, 4))
    for i in range(16):
        (tensor, index), (same, _) = first[i], again[i]
        assert index == i
        assert torch.equal(tensor, same)


def test_displacement_counts_places_and_batches_after_the_samplers_turn() -> None:
    order = [3, 1, 0, 2, 5, 4]
    came = [torch.tensor([1, 0]), torch.tensor([2, 5]), torch.tensor([4, 3])]
    late = measure_displacement(order, came, batch_size=2)
    assert late == Displacement(0, samples_p99=5, batches_median=0, batches_p99=2)
    in_order = [torch.tensor(order[i : i + 2]) for i in (0, 2, 4)]
    assert measure_displacement(order, in_order, batch_size=2) == Displacement(0, 0, 0, 0)


def test_demands_are_a_list_of_positive_numbers() -> None:
    assert positive_ratios("0.8,1.0,1.2") == (0.8, 1.0, 1.2)
    for text in ("", "0", "1,,2", "one", "inf"):
        with pytest.raises(argparse.ArgumentTypeError, match="not a list of positive numbers"):
            positive_ratios(text)


def test_loaders_whose_package_is_missing_are_left_out_with_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("torch", "spdl-threads", "grain-threads", "grain-processes")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda package: None if package == "grain" else package
    )
    assert without_missing(names) == (
        ("torch", "spdl-threads"),
        "not installed: grain; left out: grain-threads, grain-processes",
    )


@pytest.mark.parametrize("package", ["grain", "spdl", "torchdata"])
def test_a_peer_delivers_every_index_once_in_each_of_two_epochs(
    package: str, tmp_path: Path
) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (`make bench` installs it)")
    path = tmp_path / "later.json"
    peers = [name for name, loader in LOADERS.items() if loader.package == package]
    # In a process of their own: what they leave behind goes with it.
    command = (sys.executable, "-m", "benchmarks.later_epochs", "--workloads", "replay-computing")
    command += ("--loaders", ",".join(peers), "--repeats", "1", "--json", str(path))
    subprocess.run(command, cwd=ROOT, check=True, timeout=55)
    (workload,) = json.loads(path.read_text())["workloads"]
    assert [run["loader"] for run in workload["runs"]] == peers
    assert {run["error"] for run in workload["runs"]} == {None}
    assert all(run["second_epoch_s"] >= 0 for run in workload["runs"])


def test_a_quick_run_of_stock_torch_writes_what_the_documentation_says(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    command = (sys.executable, "-m", "benchmarks", "--quick", "--workloads", "cheap")
    command += ("--demand", "1,0.5")
    subprocess.run(
        (*command, "--loaders", "torch", "--json", str(path)), cwd=ROOT, check=True, timeout=50
    )
    report = json.loads(path.read_text())
    assert report["schema"] == "hatchway-benchmarks/3"
    assert {"commit", "cpu", "num_cores", "kernel", "python", "torch", "numpy"} <= set(
        report["host"]
    )
    assert report["options"]["repeats"] == 1
    assert "steady_s" in report["definitions"]["epoch"]
    assert report["calibration"]["operation_s"] > 0
    workload, slower = report["workloads"]
    assert (workload["demand"], slower["demand"]) == (1.0, 0.5)
    assert slower["limits"][0]["makespan_s"] == workload["limits"][0]["makespan_s"]
    assert slower["limits"][0]["step_s"] == pytest.approx(2 * workload["limits"][0]["step_s"])
    assert workload["num_samples"] == workload["num_batches"] * workload["batch_size"]
    (limit,), (only,) = workload["limits"], workload["runs"]
    assert only["error"] is None
    assert only["num_batches"] == workload["num_batches"]
    assert only["num_processes"] == workload["num_workers"]
    assert only["epoch_s"] == pytest.approx(only["first_batch_s"] + only["steady_s"])
    assert only["steady_s"] >= limit["limit_s"] * 0.999
    assert only["wait_share"] == pytest.approx(only["wait_s"] / only["steady_s"])
    assert only["late_samples_p99"] == only["late_batches_p99"] == 0
    assert workload["summary"]["torch"]["epoch_over_torch"]["median"] == 1.0


def test_a_loader_without_cost_keeps_the_device_busy_where_samples_are_even() -> None:
    ideal = simulate([0.1] * 40, num_workers=2, batch_size=4, in_order=True)
    assert ideal.steady_over_limit == pytest.approx(1.0)
    assert ideal.epoch_over_limit == pytest.approx(1.1)  # the first of ten batches, and its step


def test_a_device_below_capacity_hides_slow_samples_from_a_loader_without_cost() -> None:
    sample_s = [1.0, 1.0] + [0.1] * 30
    at_capacity, below = (
        simulate(sample_s, num_workers=2, batch_size=2, in_order=True, demand=demand)
        for demand in (1.0, 0.5)
    )
    assert at_capacity.steady_over_limit == pytest.approx(1.0)
    assert below.steady_over_limit == pytest.approx(1.0)
    assert below.epoch_over_limit < at_capacity.epoch_over_limit


def test_slow_samples_at_the_beginning_cost_even_a_loader_without_cost_time() -> None:
    # Device steps of 0.2 s; batches of two are made at 1, 2, 2.1 ... s in order.
    sample_s = [1.0, 1.0, 1.0, 1.0] + [0.1] * 28
    strict = simulate(sample_s, num_workers=2, batch_size=2, in_order=True)
    makespan_s, step_s = 3.4, 3.4 / 16
    assert strict.epoch_over_limit == pytest.approx((2 + 15 * step_s) / makespan_s)
    assert strict.steady_over_limit == pytest.approx((1 + 15 * step_s) / makespan_s)


def test_in_ready_order_a_batch_is_made_of_what_is_finished_first() -> None:
    sample_s = [1.0] + [0.1] * 12
    ready = simulate(sample_s, num_workers=2, batch_size=4, in_order=False)
    strict = simulate(sample_s, num_workers=2, batch_size=4, in_order=True)
    assert ready.epoch_over_limit < strict.epoch_over_limit


def test_fixed_and_automatic_numbers_of_workers_run_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "auto.json"
    command = (sys.executable, "-m", "benchmarks.auto_workers", "--quick", "--workloads", "skewed")
    command += ("--loaders", "torch,auto,auto-threads", "--repeats", "1", "--json", str(path))
    subprocess.run(command, cwd=ROOT, check=True, timeout=50)
    (workload,) = json.loads(path.read_text())["workloads"]
    assert [run["loader"] for run in workload["runs"]] == ["torch", "auto", "auto-threads"]
    assert all(run["first"] > 0 and run["second"] > 0 for run in workload["runs"])
    assert workload["runs"][0]["workers"] == 8


def test_a_file_that_cannot_be_written_is_refused_before_the_runs(tmp_path: Path) -> None:
    assert writable(str(tmp_path / "new" / "bench.json")).exists()
    with pytest.raises(argparse.ArgumentTypeError, match="cannot be written"):
        writable(str(tmp_path))
