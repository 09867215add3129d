"""All loaders, all seeds, interleaved: the raw records."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from benchmarks import host
from benchmarks.accuracy.delivery import describe_delivery
from benchmarks.accuracy.digits import SLOW_CLASSES, Pace, Split, split_digits
from benchmarks.accuracy.loaders import (
    BATCH_SIZE,
    LOADERS,
    LOSING,
    NUM_WORKERS,
    REFERENCE,
    STRICT,
)
from benchmarks.accuracy.summary import summarise
from benchmarks.accuracy.training import Learner
from benchmarks.epoch import check_exactly_once
from benchmarks.errors import BenchmarkError
from benchmarks.suite import rotated

SCHEMA = "hatchway-accuracy/1"


@dataclass(frozen=True)
class Setting:
    """What to run."""

    loaders: tuple[str, ...] = tuple(LOADERS)
    num_seeds: int = 5
    num_epochs: int = 10
    learning_rate: float = 0.05
    batch_size: int = BATCH_SIZE
    num_workers: int = NUM_WORKERS
    pace: Pace = field(default_factory=Pace)


def run_experiment(setting: Setting, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Run everything; return the report that ``--json`` writes.

    Raises:
        BenchmarkError: If a loader loses or doubles samples that must not, or `strict` is
            not torch to the last bit.
    """
    described = host.describe()
    runs = []
    for seed in range(setting.num_seeds):
        split = split_digits(seed, setting.pace)
        for name in rotated(setting.loaders, seed):
            run = _run(name, seed, split, setting)
            runs.append(run)
            right = sum(run["epochs"][-1]["right_by_class"])
            say(
                f"seed {seed}, {name}: {right / len(split.test_labels):.1%} right, "
                f"{sum(epoch['epoch_s'] for epoch in run['epochs']):.1f} s"
            )
    check_strict_is_torch(runs)
    return {
        "schema": SCHEMA,
        "host": described,
        "setting": {**asdict(setting), "slow_classes": SLOW_CLASSES},
        "runs": runs,
        "summary": summarise(runs),
    }


def check_strict_is_torch(runs: Sequence[Mapping[str, Any]]) -> None:
    """Check that `strict` gave torch's batches and weights, bit by bit, for each seed.

    Raises:
        BenchmarkError: If it did not; names the seed and what differs.
    """
    by_seed = {run["seed"]: run for run in runs if run["loader"] == REFERENCE}
    for run in runs:
        if run["loader"] != STRICT or run["seed"] not in by_seed:
            continue
        for what in ("batches_sha256", "weights_sha256"):
            if run[what] != by_seed[run["seed"]][what]:
                raise BenchmarkError(
                    f"seed {run['seed']}: {what} of {STRICT} is {run[what][:12]}, of "
                    f"{REFERENCE} {by_seed[run['seed']][what][:12]}"
                )


def epoch_order(num_samples: int, seed: int, epoch: int) -> list[int]:
    """Give the sampler's order of one epoch, the same for every loader."""
    generator = torch.Generator().manual_seed(seed * 1000 + epoch)
    order: list[int] = torch.randperm(num_samples, generator=generator).tolist()
    return order


def _run(name: str, seed: int, split: Split, setting: Setting) -> dict[str, Any]:
    learner = Learner(seed, setting.learning_rate)
    labels = split.train.labels.tolist()
    slow = {index for index, label in enumerate(labels) if label in SLOW_CLASSES}
    epochs = []
    for number in range(setting.num_epochs):
        order = epoch_order(len(split.train), seed, number)
        build = partial(LOADERS[name], split.train, order, setting.batch_size, setting.num_workers)
        with warnings.catch_warnings():
            # Torch advises against 8 workers on 2 cores; these wait.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            trained = learner.train(build)
        if name not in LOSING:
            check_exactly_once([torch.tensor(batch) for batch in trained.batches], len(order))
        epochs.append(
            {
                "epoch_s": trained.seconds,
                "right_by_class": learner.test(split.test_images, split.test_labels),
                **asdict(describe_delivery(order, trained.batches, slow)),
            }
        )
    return {
        "loader": name,
        "seed": seed,
        "num_tested_by_class": torch.bincount(split.test_labels).tolist(),
        "batches_sha256": learner.batches_sha256(),
        "weights_sha256": learner.weights_sha256(),
        "epochs": epochs,
    }
