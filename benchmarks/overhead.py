"""What a loader costs a sample beyond its work: ``python -m benchmarks.overhead``.

Samples that cost nothing (tensors made beforehand) go through 2 workers to a
consumer that takes batches as fast as they come. *Microseconds a sample* is the time
from the first batch's arrival to the last one's, over the samples of all
batches but the first; *beyond the work* subtracts what the bare calls of
``dataset[i]`` take on the same number of processes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch.utils.data import Dataset

from benchmarks import host
from benchmarks.figures import Spread, spread
from benchmarks.limit import measure_limit
from benchmarks.loaders import LOADERS, TITLES, Request, shuffled, without_missing
from benchmarks.suite import rotated

LOADER_NAMES = ("torch", "torch-unordered", "hatchway", "hatchway-strict")
NUM_WORKERS = 2
_NUM_DISTINCT = 4


class ReadyMade(Dataset[Any]):
    """Hands out samples made beforehand."""

    sleep_s = 0.0

    def __init__(self, num_samples: int, make: Callable[[int], Any]) -> None:
        self._num_samples = num_samples
        self._samples = [make(i) for i in range(_NUM_DISTINCT)]

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> Any:
        return self._samples[index % _NUM_DISTINCT]


@dataclass(frozen=True)
class Case:
    """One kind of sample."""

    name: str
    make: Callable[[int], Any]
    batch_size: int
    num_batches: int
    collate: Callable[[list[Any]], Any] | None = None


def _tensor(*shape: int) -> Callable[[int], Any]:
    return lambda i: torch.full(shape, float(i))


def _record(i: int) -> dict[str, Any]:
    return {
        "image": torch.full((3, 32, 32), float(i)),
        "label": i,
        "weight": 0.5,
        "path": f"train/class-{i}/image-{i:06d}.jpeg",
    }


def pad_to_longest(samples: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """A user's collate: tensors of unequal length, padded, with their lengths."""
    lengths = torch.tensor([len(sample) for sample in samples])
    padded = torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)
    return {"tokens": padded, "lengths": lengths}


CASES = (
    Case("3x32x32 float32, batch 64", _tensor(3, 32, 32), 64, 600),
    Case("3x224x224 float32, batch 16", _tensor(3, 224, 224), 16, 200),
    Case("128^3 float32, batch 2", _tensor(128, 128, 128), 2, 80),
    Case("dict with string, batch 64", _record, 64, 300),
    Case(
        "padded sequences, custom collate, batch 64",
        lambda i: torch.arange(200 + 40 * i),
        64,
        300,
        pad_to_longest,
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0."""
    options = _parser().parse_args(arguments)
    names, left_out = without_missing(options.loaders.split(","))
    if left_out:
        print(left_out, file=sys.stderr)
    cases = [measure(case, names, options.repeats, options.quick) for case in CASES]
    if options.json:
        result = {"schema": "hatchway-overhead/1", "host": host.describe(), "cases": cases}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    _show(cases)
    return 0


def measure(case: Case, names: Sequence[str], repeats: int, quick: bool) -> dict[str, Any]:
    """Run one case with each loader, interleaved."""
    num_batches = max(4, case.num_batches // 20) if quick else case.num_batches
    dataset: Any = ReadyMade(case.batch_size * num_batches, case.make)
    work_us: list[float] = []
    sample_us: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        limit = measure_limit(dataset, range(len(dataset)), NUM_WORKERS)
        work_us.append(limit.work_s / len(dataset) * 1e6)
        for name in rotated(names, repeat):
            sample_us[name].append(_sample_us(name, case, dataset))
    return {
        "case": case.name,
        "num_samples": len(dataset),
        "work_us": asdict(spread(work_us)),
        "sample_us": {name: asdict(spread(values)) for name, values in sample_us.items()},
        "beyond_work_us": {
            name: asdict(spread(us - work for us, work in zip(values, work_us, strict=True)))
            for name, values in sample_us.items()
        },
    }


def _sample_us(name: str, case: Case, dataset: Any) -> float:
    loader = LOADERS[name].build(
        Request(
            dataset=dataset,
            sampler=shuffled(dataset, 0),
            batch_size=case.batch_size,
            num_workers=NUM_WORKERS,
            collate_fn=case.collate,
        )
    )
    num_batches = 0
    first = last = 0.0
    for _ in loader:
        last = time.perf_counter()
        first = first or last
        num_batches += 1
    return (last - first) / ((num_batches - 1) * case.batch_size) * 1e6


def _show(cases: Sequence[dict[str, Any]]) -> None:
    table = Table(
        title=Text("Microseconds a sample beyond the work, median [min-max]"), box=box.SIMPLE_HEAD
    )
    table.add_column("samples")
    names = list(cases[0]["beyond_work_us"])
    for name in names:
        table.add_column(Text(TITLES[name]), justify="right")
    for case in cases:
        cells = (Spread(**case["beyond_work_us"][name]).text(1) for name in names)
        table.add_row(*map(Text, (case["case"], *cells)))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description="What loaders cost a sample beyond the work.",
    )
    parser.add_argument("--loaders", default=",".join(LOADER_NAMES), help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument("--quick", action="store_true", help="small sizes: a smoke test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
