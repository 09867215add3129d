"""Memory over a dataset of Python objects: ``python -m benchmarks.copy_on_write``.

A dataset holds a list of Python objects, and ``__getitem__`` looks at one. Forked workers share
the list's pages with the training process until somebody writes to them, and to look at an
object writes its reference count. *PSS* is the proportional memory of the training process and
its workers together, anonymous and shared memory alike; *growth* is what it is after so many
samples beyond what it was before ``iter()``. Both loaders take the same samples in the same
order, each in a process of its own, by turns. *Array* is the same data in one NumPy array, for
what there is to do about it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from torch.utils.data import Dataset

from benchmarks.arguments import add_output, positive
from benchmarks.figures import by_repeat, paired_ratios, spread
from benchmarks.report import markdown_table, print_table, write_report
from benchmarks.suite import rotated

SCHEMA = "hatchway-copy-on-write/1"
BATCH_SIZE = 256
NUM_WORKERS = 8
_KINDS: dict[str, Callable[[int], Any]] = {
    # Text, as of captions and paths: 8 bytes in the list and 60 of its own.
    "list": lambda count: [f"image-{i}" for i in range(count)],
    "array": lambda count: np.array([f"image-{i}" for i in range(count)], dtype="S15"),
}
_LOADERS = ("torch", "hatchway")
_TITLES = {"list": "list of str", "array": "NumPy array"}


class Captions(Dataset[int]):
    """Sample n is the length of text n."""

    def __init__(self, texts: Any) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> int:
        return len(self.texts[index])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0."""
    options = _parser().parse_args(arguments)
    if options.run:
        print(json.dumps(_run(*options.run, options.objects, options.samples)))
        return 0
    runs = list(_runs(options.objects, options.samples, options.repeats))
    write_report(options, SCHEMA, __doc__, runs=runs)
    _show(runs, options.markdown)
    return 0


def _runs(num_objects: int, num_samples: int, repeats: int) -> Iterator[dict[str, Any]]:
    for repeat in range(repeats):
        for kind in _KINDS:
            for name in rotated(_LOADERS, repeat):
                command = [sys.executable, "-m", "benchmarks.copy_on_write", "--run", name, kind]
                command += ["--objects", str(num_objects), "--samples", str(num_samples)]
                done = subprocess.run(
                    command,
                    cwd=Path(__file__).parents[1],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                run = json.loads(done.stdout)
                print(f"{repeat + 1}/{repeats} {name}, {kind}: {run}", file=sys.stderr)
                yield {"loader": name, "kind": kind, "repeat": repeat, "error": None, **run}


def _run(name: str, kind: str, num_objects: int, num_samples: int) -> dict[str, float]:
    """Bytes before, with the first batch, and after so many samples."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    dataset = Captions(_KINDS[kind](num_objects))
    loader_class: Any = torch.utils.data.DataLoader
    more: dict[str, Any] = {}
    if name == "hatchway":
        from hatchway import DataLoader

        loader_class, more = DataLoader, {"order": "strict"}
    order = torch.randperm(num_objects, generator=torch.Generator().manual_seed(0))
    sampler: Any = order[: num_samples + 64 * BATCH_SIZE].tolist()
    loader = loader_class(
        dataset,
        BATCH_SIZE,
        sampler=sampler,
        num_workers=NUM_WORKERS,
        multiprocessing_context="fork",
        **more,
    )
    before = pss_bytes()
    iterator = iter(loader)
    next(iterator)
    first = pss_bytes()
    begun = time.perf_counter()
    for _ in range(num_samples // BATCH_SIZE - 1):
        next(iterator)
    seconds = time.perf_counter() - begun
    after = pss_bytes()
    return {
        "before_bytes": before,
        "first_batch_bytes": first - before,
        "growth_bytes": after - before,
        "seconds": seconds,
    }


def pss_bytes() -> int:
    """The proportional memory of this process and all its children."""
    everyone = [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]
    total = 0
    for pid in everyone:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024


def _show(runs: Sequence[dict[str, Any]], as_markdown: bool) -> None:
    header = ["dataset", "before, MiB", "torch, growth, MiB", "Hatchway, growth, MiB", "over torch"]
    rows = []
    for kind in _KINDS:
        of_kind = [run for run in runs if run["kind"] == kind]
        growth = {name: by_repeat(of_kind, name, "growth_bytes") for name in _LOADERS}
        ratios = paired_ratios(growth["hatchway"], growth["torch"])
        before = spread(run["before_bytes"] for run in of_kind)
        cells = [before, *(spread(growth[name].values()) for name in _LOADERS)]
        texts = [cell.text(0, 2**-20) for cell in cells]
        rows.append([_TITLES[kind], *texts, spread(ratios.values()).text()])
    if as_markdown:
        print(markdown_table(header, rows))
    else:
        console = Console(width=None if sys.stdout.isatty() else 160)
        print_table(console, "Memory of all processes", header, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.copy_on_write",
        description="Memory of 8 workers over a dataset of Python objects, beside stock torch.",
    )
    parser.add_argument("--objects", type=positive, default=10_000_000, help="default: 10000000")
    parser.add_argument("--samples", type=positive, default=500_000, help="default: 500000")
    parser.add_argument("--repeats", type=positive, default=3, help="runs of each (default: 3)")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)  # loader and kind, in here
    add_output(parser, can_read=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
