"""The accuracy experiment: its baselines do what they are named for, its report says what ran."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.accuracy import fastfirst, picture, report
from benchmarks.accuracy.cli import main
from benchmarks.accuracy.delivery import describe_delivery
from benchmarks.accuracy.digits import SLOW_CLASSES, Pace, split_digits
from benchmarks.accuracy.experiment import Setting, check_strict_is_torch, run_experiment
from benchmarks.accuracy.lanes import Lanes, Task
from benchmarks.accuracy.summary import mean_of, slow_share_by_part, summarise
from benchmarks.errors import BenchmarkError

NUM_SAMPLES = 40
SLOW = frozenset(range(0, NUM_SAMPLES, 5))
ORDER = list(reversed(range(NUM_SAMPLES)))
BATCH_SIZE = 16
NUM_FAST_BATCHES = (NUM_SAMPLES - len(SLOW)) // BATCH_SIZE


class Gated:
    """Samples are their index; slow ones are given up at first, and then wait for the gate."""

    def __init__(self, *, is_open: bool) -> None:
        self.gate = threading.Event()
        if is_open:
            self.gate.set()

    def __getitem__(self, index: int) -> int:
        assert index in SLOW
        assert self.gate.wait(timeout=30)
        return index

    def attempt(self, index: int, patience_s: float) -> int | None:
        assert patience_s > 0
        return None if index in SLOW else index


class Broken(Gated):
    def attempt(self, index: int, patience_s: float) -> int | None:
        raise OSError(f"no sample {index}")


def indices(batches: list[torch.Tensor]) -> list[int]:
    return [index for batch in batches for index in batch.tolist()]


def run(loader: str, seed: int, right: list[int], **more: Any) -> dict[str, Any]:
    epoch = {
        "epoch_s": 2.0,
        "right_by_class": right,
        "late_by": [0, 0, 0, 7],
        "slow_late_by": [7],
        "num_slow_by_batch": [0, 0, 0, 1],
        "num_by_batch": [1, 1, 1, 1],
        "num_lost": 0,
        "num_doubled": 0,
    }
    return {
        "loader": loader,
        "seed": seed,
        "num_tested_by_class": [10] * 10,
        "batches_sha256": "b" * 64,
        "weights_sha256": "a" * 64,
        "epochs": [{**epoch, **more}],
    }


def made(runs: list[dict[str, Any]]) -> dict[str, Any]:
    host = {"commit": "c" * 40, "has_uncommitted_changes": False, "cpu": "cpu", "num_cores": 2}
    versions = dict.fromkeys(("kernel", "python", "torch", "hatchway"), "1")
    setting = {
        "slow_classes": SLOW_CLASSES,
        "pace": {"fast_s": 0.001, "slow_s": 0.02},
        "batch_size": 32,
        "num_workers": 8,
        "num_epochs": 1,
        "num_seeds": 2,
        "learning_rate": 0.05,
    }
    return {
        "host": {**host, **versions},
        "setting": setting,
        "runs": runs,
        "summary": summarise(runs),
    }


def test_front_workers_try_every_position_before_they_help_with_what_was_set_aside() -> None:
    lanes = Lanes(3, goes_round=False)
    assert lanes.take(in_background=True) is None
    assert lanes.take(in_background=False) == Task(0, is_first_attempt=True)
    lanes.set_aside(0)
    assert lanes.take(in_background=False) == Task(1, is_first_attempt=True)
    lanes.set_aside(1)
    assert lanes.take(in_background=True) == Task(0, is_first_attempt=False)
    assert lanes.take(in_background=False) == Task(2, is_first_attempt=True)
    assert lanes.take(in_background=False) == Task(1, is_first_attempt=False)
    assert lanes.take(in_background=False) is None


def test_front_workers_that_go_round_never_help() -> None:
    lanes = Lanes(2, goes_round=True)
    lanes.set_aside(0)
    positions = [lanes.take(in_background=False) for _ in range(5)]
    assert positions == [Task(i % 2, is_first_attempt=True) for i in range(5)]


@pytest.mark.parametrize("num_workers", [3, 8])
def test_unbounded_fast_first_delivers_every_sample_exactly_once(num_workers: int) -> None:
    source = Gated(is_open=True)
    batches = list(fastfirst.unbounded(source, ORDER, BATCH_SIZE, num_workers))
    assert sorted(indices(batches)) == sorted(ORDER)
    assert [len(batch) for batch in batches] == [16, 16, 8]


def test_unbounded_fast_first_leaves_slow_samples_to_the_end_of_the_epoch() -> None:
    source = Gated(is_open=False)
    batches = fastfirst.unbounded(source, ORDER, BATCH_SIZE, 8)
    first = [next(batches) for _ in range(NUM_FAST_BATCHES)]
    source.gate.set()
    assert not SLOW & set(indices(first))
    assert sorted(indices(list(batches))) == sorted(SLOW)


def test_counting_fast_first_drops_what_is_late_and_doubles_what_is_fast() -> None:
    source = Gated(is_open=False)
    batch_size = 8
    batches = fastfirst.counting(source, ORDER, batch_size, 8)
    came = [next(batches).tolist() for _ in range(NUM_SAMPLES // batch_size)]
    source.gate.set()
    assert next(batches, None) is None
    delivery = describe_delivery(ORDER, came, SLOW)
    assert delivery.num_by_batch == (8,) * 5
    assert delivery.slow_late_by == ()
    assert delivery.num_lost == delivery.num_doubled >= len(SLOW)


def test_counting_fast_first_drops_the_incomplete_batch() -> None:
    batches = fastfirst.counting(Gated(is_open=True), ORDER, BATCH_SIZE, 8)
    assert [len(batch) for batch in batches] == [16, 16]


def test_what_a_worker_raises_reaches_the_training_loop() -> None:
    with pytest.raises(OSError, match="no sample"):
        next(fastfirst.unbounded(Broken(is_open=True), ORDER, BATCH_SIZE, 4))


def test_fast_first_needs_workers_beside_those_in_the_background() -> None:
    with pytest.raises(ValueError, match="num_workers is 2"):
        next(fastfirst.unbounded(Gated(is_open=True), ORDER, BATCH_SIZE, 2))


def test_a_split_depends_on_its_seed_alone_and_only_slow_classes_are_given_up() -> None:
    split, same, other = (split_digits(seed, Pace(0.0, 1.0)) for seed in (3, 3, 4))
    assert torch.equal(split.train.images, same.train.images)
    assert not torch.equal(split.train.images, other.train.images)
    assert (len(split.train), len(split.test_labels)) == (1200, 597)
    for index, label in enumerate(split.train.labels[:50].tolist()):
        assert (split.train.attempt(index, 0.0) is None) == (label in SLOW_CLASSES)


def test_lateness_counts_positions_after_a_sample_s_turn() -> None:
    delivery = describe_delivery([5, 6, 7, 8, 9], [[6, 7], [5, 6], [9]], slow={5, 8})
    assert delivery.late_by == (2, 0, 0, 0)
    assert delivery.slow_late_by == (2,)
    assert (delivery.num_slow_by_batch, delivery.num_by_batch) == ((0, 1, 0), (2, 2, 1))
    assert (delivery.num_lost, delivery.num_doubled) == (1, 1)
    with pytest.raises(ValueError, match="index 4, which is not in order"):
        describe_delivery([5], [[4]], slow=())


def test_strict_gives_torch_s_batches_and_weights_to_the_last_bit() -> None:
    setting = Setting(
        loaders=("torch", "strict"), num_seeds=1, num_epochs=1, num_workers=2, pace=Pace(0.0, 0.0)
    )
    result = run_experiment(setting)
    stock, strict = result["runs"]
    assert stock["batches_sha256"] == strict["batches_sha256"]
    assert stock["weights_sha256"] == strict["weights_sha256"]
    assert strict["epochs"][0]["num_by_batch"] == (32,) * 37 + (16,)
    assert result["summary"]["strict"]["late_max"] == 0
    assert result["summary"]["torch"]["accuracy"]["mean"] > 0.5
    json.dumps(result)


def test_weights_that_differ_from_torch_s_are_an_error() -> None:
    strict = {**run("strict", 1, [9] * 10), "weights_sha256": "d" * 64}
    check_strict_is_torch([run("torch", 0, [9] * 10), strict])
    with pytest.raises(BenchmarkError, match="seed 1: weights_sha256 of strict is dddddddddddd"):
        check_strict_is_torch([run("torch", 1, [9] * 10), strict])


def test_figures_are_means_over_seeds_and_differences_within_a_seed() -> None:
    slow_wrong = [0 if label in SLOW_CLASSES else 10 for label in range(10)]
    runs = [run("torch", 0, [9] * 10), run("torch", 1, [8] * 10)]
    runs += [run("ready", 1, [9] * 10), run("ready", 0, slow_wrong)]
    figures = summarise(runs)["ready"]
    assert figures["accuracy"] == pytest.approx({"mean": 0.85, "minimum": 0.8, "maximum": 0.9})
    assert figures["slow_accuracy"]["mean"] == pytest.approx(0.45)
    assert figures["fast_accuracy"]["mean"] == pytest.approx(0.95)
    assert figures["accuracy_over_torch"]["mean"] == pytest.approx(0.0)
    assert figures["accuracy_over_torch"]["minimum"] == pytest.approx(-0.1)
    assert (figures["late_p50"], figures["late_p99"], figures["slow_late_p50"]) == (0, 7, 7)
    assert figures["slow_share_by_batch"] == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="values is empty"):
        mean_of([])


def test_the_last_fifth_of_an_epoch_holds_its_last_batches() -> None:
    epoch = {"num_slow_by_batch": [0] * 8 + [4] * 2, "num_by_batch": [4] * 10}
    assert slow_share_by_part([epoch]) == [0, 0, 0, 0, 1]


def test_the_tables_and_the_picture_are_made_from_the_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lossy = run("counting", 0, [5] * 10, slow_late_by=[], num_lost=12, num_doubled=8)
    result = made([run("torch", 0, [9] * 10), run("torch", 1, [8] * 10), lossy])
    lines = report.markdown(result).splitlines()
    assert "| torch in order | 85.0 [80.0-90.0] | 0.0 | 85.0 [80.0-90.0] |" in lines[4]
    assert lines[5].startswith("| counting, dropping fast-first | 50.0 | -40.0 |")
    assert lines[-1] == (
        "| counting, dropping fast-first | 0 | 7 | 7 | - | 12 | 8 | 0; 0 0 0 0 100; 100 |"
    )
    assert "last bit" not in report.markdown(result)
    assert "last bit" in report.markdown(
        made([run("torch", 0, [9] * 10), run("strict", 0, [9] * 10)])
    )
    path, plot = tmp_path / "accuracy.json", tmp_path / "accuracy.png"
    path.write_text(json.dumps(result))
    assert main(["--read", str(path), "--plot", str(plot)]) == 0
    assert "counting, dropping fast-first" in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    picture.draw(result, plot)
