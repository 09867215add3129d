"""What each simulated loader does with a few samples, computed by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler

from benchmarks.displacement import measure_displacement
from hatchway.loader import native
from hatchway.loader.simulator import LOADERS, Costs, Job, Outcome, Setting, simulate
from hatchway.loader.simulator.outcome import lateness
from hatchway.loader.simulator.setting import deal

TWO_WORKERS = Setting(num_workers=2, step_s=0.0)


def run_in_turn(loader: str, times_s: Sequence[float], setting: Setting) -> Outcome:
    """One epoch in the order of the dataset."""
    return Job(loader, times_s, setting).run(range(len(times_s)))


def came(outcome: Outcome, rank: int = 0) -> list[int]:
    """The positions of a device in the order in which they came."""
    return [int(position) for batch in outcome.delivered[rank] for position in batch]


def skewed_s(num_samples: int, seed: int) -> list[float]:
    drawn = random.Random(seed)
    return [drawn.choice((0.01, 0.012, 0.02, 0.3)) * drawn.random() for _ in range(num_samples)]


def test_stock_torch_waits_for_the_slow_batch_in_front_of_finished_ones() -> None:
    outcome = run_in_turn("torch", [4.0, 1.0, 1.0, 1.0], TWO_WORKERS)
    # Worker 0 has batches 0 and 2, worker 1 has 1 and 3.
    assert came(outcome) == [0, 1, 2, 3]
    assert (outcome.first_batch_s, outcome.epoch_s) == (4.0, 5.0)
    assert outcome.late_samples == (0, 0, 0)


def test_stock_torch_deals_a_batch_for_each_that_it_delivers() -> None:
    setting = replace(TWO_WORKERS, prefetch_factor=1)
    in_order = run_in_turn("torch", [4.0, 1.0, 1.0, 1.0, 1.0, 1.0], setting)
    # Batches 2 and 3 are dealt at 4 s, when 0 and 1 leave; 4 and 5 at 5 s.
    assert in_order.epoch_s == 6.0


def test_stock_torch_out_of_order_hands_over_batches_as_they_are_complete() -> None:
    outcome = run_in_turn("torch-unordered", [4.0, 1.0, 1.0, 1.0], TWO_WORKERS)
    assert came(outcome) == [1, 3, 0, 2]  # at 1, 2, 4 and 5 s
    assert (outcome.first_batch_s, outcome.epoch_s) == (1.0, 5.0)
    assert outcome.late_samples[2] == 2


def test_stock_torch_out_of_order_deals_to_the_worker_with_room() -> None:
    setting = replace(TWO_WORKERS, prefetch_factor=1)
    outcome = run_in_turn("torch-unordered", [4.0, 1.0, 1.0, 1.0, 1.0, 1.5], setting)
    # Worker 1 makes 1 to 4 while worker 0 is at 0; that finishes beside 4.
    assert came(outcome) == [1, 2, 3, 0, 4, 5]
    assert outcome.epoch_s == 5.5


def test_hatchway_in_strict_order_runs_samples_on_while_one_is_slow() -> None:
    outcome = run_in_turn("strict", [4.0, 1.0, 1.0, 1.0], TWO_WORKERS)
    assert came(outcome) == [0, 1, 2, 3]
    assert (outcome.first_batch_s, outcome.epoch_s) == (4.0, 4.0)


def test_hatchway_in_ready_order_goes_on_with_what_is_finished() -> None:
    setting = replace(TWO_WORKERS, max_background_workers=0)
    outcome = run_in_turn("ready", [4.0, 1.0, 1.0, 1.0], setting)
    assert came(outcome) == [1, 2, 3, 0]  # at 1, 2, 3 and 4 s
    assert (outcome.first_batch_s, outcome.epoch_s) == (1.0, 4.0)
    assert outcome.late_samples == (0, 3, 3)


def test_hatchway_keeps_to_max_displacement() -> None:
    setting = replace(TWO_WORKERS, max_background_workers=0, max_displacement=1)
    outcome = run_in_turn("ready", [4.0, 1.0, 1.0, 1.0], setting)
    assert came(outcome) == [1, 0, 2, 3]


def test_hatchway_starts_a_background_worker_that_takes_its_time_to_start() -> None:
    setting = Setting(num_workers=1, step_s=0.0, costs=Costs(fork_s=0.5))
    outcome = run_in_turn("ready", [4.0, 1.0], setting)
    # Sample 0 runs from 0.5 s on. The loop looks each 0.25 s, sees at 1 s that it is slow,
    # and has another worker at 1.5 s.
    assert came(outcome) == [1, 0]
    assert (outcome.first_batch_s, outcome.epoch_s) == (2.5, 4.5)
    assert outcome.num_background_workers == 1


def test_hatchway_starts_no_background_worker_where_all_cores_compute() -> None:
    setting = Setting(num_workers=1, step_s=0.0, num_cores=1.0)
    assert run_in_turn("ready", [0.9, 0.1], setting).num_background_workers == 0


def test_hatchway_starts_slow_samples_before_their_turn_once_it_knows_them() -> None:
    times_s = [0.05] * 40
    times_s[20] = times_s[30] = 0.6
    setting = Setting(num_workers=4, batch_size=2, max_background_workers=0)
    job = Job("strict", times_s, setting)
    first, second = job.run(range(40)), job.run(range(40))
    assert second.wait_s < first.wait_s / 2


def test_minato_as_in_the_artifact_makes_a_sample_that_took_2_s_from_scratch() -> None:
    outcome = run_in_turn("minato-artifact", [5.0, 1.0, 1.0, 1.0], TWO_WORKERS)
    assert came(outcome) == [1, 2, 3, 0]  # sample 0 is given up at 2 s and done at 7 s
    assert outcome.epoch_s == 7.0


def test_minato_as_in_the_paper_goes_on_with_a_sample_that_exceeds_the_cut() -> None:
    setting = Setting(num_workers=1, step_s=0.0, prefetch_factor=100)
    times_s = [1.0] * 64 + [5.0]
    assert run_in_turn("minato-paper", times_s, setting).epoch_s == 69.0
    assert run_in_turn("minato-artifact", times_s, setting).epoch_s == 71.0


def test_a_step_begins_when_every_device_has_its_batch() -> None:
    setting = Setting(num_workers=2, num_devices=2, step_s=1.0)
    outcome = run_in_turn("torch", [1.0, 3.0, 1.0, 1.0], setting)
    # Device 0 has batches at 1 and 2 s, device 1 at 3 and 4 s.
    assert (outcome.first_batch_s, outcome.epoch_s, outcome.wait_s) == (3.0, 5.0, 0.0)
    assert (outcome.num_batches, outcome.num_samples) == (2, 4)


def test_devices_wait_while_there_is_no_batch() -> None:
    setting = Setting(num_workers=1, step_s=0.25)
    outcome = run_in_turn("torch", [1.0, 1.0, 0.5], setting)
    # Batches come at 1, 2 and 2.5 s.
    assert outcome.epoch_s == 2.75
    assert (outcome.wait_s, outcome.longest_wait_s) == (1.0, 0.75)
    assert outcome.busy_share == pytest.approx(0.75 / 2.75)
    assert outcome.wait_share == pytest.approx(1.0 / 1.75)


def test_by_default_demand_equals_capacity() -> None:
    outcome = run_in_turn("strict", [1.0] * 8, Setting(num_workers=2, batch_size=2))
    assert outcome.step_s == 1.0
    assert outcome.limit_s == 4.0


def test_samples_that_compute_share_the_cores() -> None:
    setting = replace(TWO_WORKERS, num_cores=1.0)
    assert run_in_turn("strict", [1.0, 1.0], setting).epoch_s == 2.0
    assert run_in_turn("strict", [1.0, 1.0], TWO_WORKERS).epoch_s == 1.0


def test_costs_of_the_loader_lengthen_its_epoch() -> None:
    setting = replace(TWO_WORKERS, costs=Costs(sample_s=0.5, boot_s=0.25))
    for loader in ("torch", "strict"):
        assert run_in_turn(loader, [1.0, 1.0], setting).epoch_s == 1.75


@pytest.mark.parametrize("num_samples", [1, 7, 8])
@pytest.mark.parametrize("num_devices", [1, 3, 8])
def test_samples_are_dealt_as_distributed_sampler_does(num_samples: int, num_devices: int) -> None:
    dealt = deal(range(num_samples), num_devices)
    for rank in range(num_devices):
        sampler: DistributedSampler[int] = DistributedSampler(
            range(num_samples),  # type: ignore[arg-type]
            num_replicas=num_devices,
            rank=rank,
            shuffle=False,
        )
        assert list(sampler) == dealt[rank].tolist()


def test_lateness_is_measured_as_in_the_benchmarks() -> None:
    batches = [np.array([1, 2, 3]), np.array([4, 0, 8]), np.array([5, 6, 7])]
    measured = measure_displacement(range(9), [torch.from_numpy(one) for one in batches], 3)
    (median, p99, most), batches_p99 = lateness([batches], 3)
    assert (median, p99) == (measured.samples_median, measured.samples_p99)
    assert batches_p99 == measured.batches_p99
    assert most == 4


@pytest.mark.parametrize("loader", LOADERS)
def test_the_same_seed_gives_the_same_epochs(loader: str) -> None:
    times_s, setting = skewed_s(200, 1), Setting(num_workers=3, batch_size=4, seed=5)
    once, again = (simulate(loader, times_s, setting, 2) for _ in range(2))
    assert once == again
    other = simulate(loader, times_s, replace(setting, seed=6), 2)
    assert once != other


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("num_cores", [None, 2.0])
@pytest.mark.parametrize("num_devices", [1, 2])
def test_no_loader_beats_the_limit(loader: str, num_cores: float | None, num_devices: int) -> None:
    setting = Setting(num_workers=4, num_devices=num_devices, batch_size=3, num_cores=num_cores)
    for outcome in simulate(loader, skewed_s(150, 2), setting, 2):
        assert outcome.epoch_s >= outcome.limit_s
        assert 0 < outcome.busy_share <= 1


@pytest.mark.parametrize("loader", ["torch", "torch-unordered", "strict", "ready"])
def test_no_loader_without_further_workers_beats_the_work_alone(loader: str) -> None:
    setting = Setting(num_workers=4, batch_size=3, step_s=0.0, max_background_workers=0)
    for outcome in simulate(loader, skewed_s(150, 2), setting, 2):
        assert outcome.epoch_s >= outcome.limit_s > 0


@pytest.mark.parametrize("loader", ["ready", "strict"])
def test_the_compiled_turns_and_their_twins_come_to_the_same(
    loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    times_s, setting = skewed_s(120, 3), Setting(num_workers=4, batch_size=4)
    compiled = simulate(loader, times_s, setting, 2)
    monkeypatch.setattr(native, "MODULE", None)
    plain = simulate(loader, times_s, setting, 2)
    assert compiled == plain
    assert [came(one) for one in compiled] == [came(one) for one in plain]


@pytest.mark.parametrize("loader", LOADERS)
def test_cheap_samples_go_through_in_chunks(loader: str) -> None:
    setting = Setting(num_workers=2, batch_size=64, costs=Costs(sample_s=1e-6))
    outcome = run_in_turn(loader, [20e-6] * 6400, setting)
    assert sorted(came(outcome)) == list(range(6400))
    assert outcome.over_limit < 1.2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"num_workers": 0}, "num_workers must be at least 1"),
        ({"num_workers": 2, "num_devices": 3}, "num_devices"),
        ({"num_workers": 1, "step_s": -1.0}, "step_s"),
        ({"num_workers": 1, "num_cores": 0.0}, "num_cores"),
        ({"num_workers": 1, "batch_size": 0}, "batch_size"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Setting(**wrong)  # type: ignore[arg-type]


def test_a_loader_that_is_not_known_and_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="'tensorflow'"):
        Job("tensorflow", [1.0], TWO_WORKERS)
    with pytest.raises(ValueError, match="at least one sample"):
        Job("torch", [], TWO_WORKERS)
