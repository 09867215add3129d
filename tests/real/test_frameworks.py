"""The frameworks that people train with take the loader as it is, and keep it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.real import lightning_ranks

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "frameworks"

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(150)]

# What each example needs, and what it prints.
SAID = {
    "lightning_fit": ("lightning", ["24 samples before the checkpoint, 40 after it, each once"]),
    "accelerate_prepare": (
        "accelerate",
        [
            f"epoch {epoch}: 64 samples on 1 processes, each once; 16 batches here, order 'ready'"
            for epoch in range(2)
        ],
    ),
    "transformers_trainer": (
        "transformers",
        ["32 steps, every sample once in each of 2 epochs"],
    ),
    "torchdata_samplers": ("torchdata", ["20 samples before the stop, 44 after it, each once"]),
    "webdataset_pipeline": (
        "webdataset",
        [
            "80 images read by the workers, each once",
            "80 images read by one process and decoded by the workers, each once",
        ],
    ),
    "hf_datasets": ("datasets", ["64 rows in 8 batches, each once"]),
    "torchio_transforms": (
        "torchio",
        ["8 subjects, with the same noise from 2 workers and from none"],
    ),
    "monai_transforms": ("monai", ["8 images, with the same noise from 2 workers and from none"]),
}
# Which of the two is said in the example, or for each of two processes.
ON_TWO = {
    "ddp": ("torch", ["64 samples on 2 ranks, each once in each of 2 epochs"]),
    "accelerate_prepare": (
        "accelerate",
        [
            f"epoch {epoch}: 64 samples on 2 processes, each once; 8 batches here, order 'ready'"
            for epoch in range(2)
        ],
    ),
}


def needs(package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed (`make test` installs it)")


def said_by(*command: str | Path, **environment: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=140,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.parametrize("name", SAID)
def test_the_example_runs_as_it_is(name: str) -> None:
    package, lines = SAID[name]
    needs(package)
    assert said_by(EXAMPLES / f"{name}.py")[-len(lines) :] == lines


@pytest.mark.parametrize("name", ON_TWO)
def test_the_example_runs_on_two_processes(name: str) -> None:
    package, lines = ON_TWO[name]
    needs(package)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    found = said_by(*launch, EXAMPLES / f"{name}.py", ACCELERATE_USE_CPU="true")
    assert found[-len(lines) :] == lines


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SAID, *ON_TWO}


def test_lightning_puts_its_sampler_into_the_loader_on_two_processes(tmp_path: Path) -> None:
    needs("lightning")
    said_by("-m", lightning_ranks.__name__, tmp_path)
    told: list[dict[str, Any]] = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2)]
    for one in told:
        assert one["is_ours"]
        assert one["is_rebuilt"]
        assert one["sampler"] == "DistributedSampler"
        assert (one["slow_after_s"], one["order"], one["num_batches"]) == (1.5, "ready", 6)
    for epoch in range(2):
        seen = told[0]["seen"][epoch] + told[1]["seen"][epoch]
        assert sorted(seen) == list(range(lightning_ranks.NUM_SAMPLES))
    assert told[0]["seen"][0] != told[0]["seen"][1]


def test_a_trainer_takes_ours_where_torchs_class_was_replaced_before() -> None:
    needs("transformers")
    code = f"""
import hatchway, torch.utils.data
torch.utils.data.DataLoader = hatchway.DataLoader
import runpy
from transformers import Trainer
example = runpy.run_path({str(EXAMPLES / "transformers_trainer.py")!r})
taken = []
def get(self):
    taken.append(Trainer.get_train_dataloader(self))
    return taken[-1]
example["HatchwayTrainer"].get_train_dataloader = get
example["main"]()
assert type(taken[0].base_dataloader) is hatchway.DataLoader
print(taken[0].base_dataloader.batch_size)
"""
    assert said_by("-c", code)[-2:] == ["32 steps, every sample once in each of 2 epochs", "4"]
