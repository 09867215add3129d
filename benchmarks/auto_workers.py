"""``num_workers="auto"`` beside fixed numbers: ``python -m benchmarks.auto_workers``.

Each loader runs two passes as fast as the loop can take batches (demand without a bound);
the second one begins with what the first one learned, where there is something to learn.
*Over torch* is the throughput of a pass, from ``iter()`` to its last batch, over that of the
same pass of stock torch with the workload's own number of workers, in the same repeat.
*Workers* is how many there were at the end.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console

from benchmarks.arguments import add_output, add_runs, positive
from benchmarks.counted import NOISE_TRIAL, calibrate, noise
from benchmarks.epoch import check_exactly_once
from benchmarks.figures import by_repeat, paired_ratios, spread
from benchmarks.loaders import Request, drop_in, shuffled
from benchmarks.report import markdown_table, print_table, write_report
from benchmarks.suite import rotated, without_advice
from benchmarks.workloads import WORKLOADS, IndexedDataset, Scale, Workload

SCHEMA = "hatchway-auto-workers/1"
WORKLOAD_NAMES = ("skewed", "replay-waiting", "jpeg", "replay-computing")
REFERENCE = "torch"
LOADERS = {
    REFERENCE: drop_in.stock(),
    "hatchway": drop_in.hatchway(),
    "hatchway-1": drop_in.hatchway(num_workers=1),
    "hatchway-2": drop_in.hatchway(num_workers=2),
    "hatchway-4": drop_in.hatchway(num_workers=4),
    "auto": drop_in.hatchway(num_workers="auto"),
    "auto-strict": drop_in.hatchway(num_workers="auto", order="strict"),
    "auto-threads": drop_in.hatchway(num_workers="auto", worker_type="thread"),
}
TITLES = {
    REFERENCE: "torch",
    "hatchway": "Hatchway, as many",
    "hatchway-1": "Hatchway, 1",
    "hatchway-2": "Hatchway, 2",
    "hatchway-4": "Hatchway, 4",
    "auto": 'Hatchway, `"auto"`',
    "auto-strict": 'Hatchway, `"auto"`, `order="strict"`',
    "auto-threads": 'Hatchway, `"auto"`, threads',
}
_HEADER = ["loader", "1st pass,\nover torch", "2nd pass,\nover torch", "workers,\nat the end"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0."""
    options = _parser().parse_args(arguments)
    operation_s, noise_value_s = calibrate(), calibrate(noise, num_operations=NOISE_TRIAL)
    results = []
    for name in options.workloads:
        workload = WORKLOADS[name]
        count = workload.batch_size if options.quick else workload.num_samples("full")
        scale = Scale(count * options.times, options.seed, operation_s, noise_value_s)
        runs = _run_workload(workload, scale, options.loaders, options.repeats)
        results.append({"name": name, "title": workload.title, "runs": runs})
    write_report(options, SCHEMA, __doc__, workloads=results)
    _show(results, options.markdown)
    return 0


def _run_workload(
    workload: Workload, scale: Scale, loaders: Sequence[str], repeats: int
) -> list[dict[str, Any]]:
    dataset = workload.build(scale)
    runs = []
    for repeat in range(repeats):
        for name in rotated(loaders, repeat):
            run = _run_loader(name, workload, dataset, scale.seed + repeat)
            runs.append({"loader": name, "repeat": repeat, "error": None, **run})
            print(
                f"{workload.name} {repeat + 1}/{repeats}, {name}: {run['first']:.0f} and "
                f"{run['second']:.0f} samples a second, {run['workers']} workers",
                file=sys.stderr,
            )
    return runs


def _run_loader(
    name: str, workload: Workload, dataset: IndexedDataset, seed: int
) -> dict[str, float]:
    request = Request(
        dataset=dataset,
        sampler=shuffled(dataset, seed),
        batch_size=workload.batch_size,
        num_workers=workload.num_workers,
    )
    with without_advice():
        loader: Any = LOADERS[name](request)
        rates = [_rate(loader, len(dataset)) for _ in range(2)]
    is_ours = hasattr(loader, "statistics")
    workers = loader.statistics().num_workers if is_ours else loader.num_workers
    del loader
    gc.collect()
    return {"first": rates[0], "second": rates[1], "workers": workers}


def _rate(loader: Any, num_samples: int) -> float:
    """Samples a second of one pass."""
    came: list[torch.Tensor] = []
    begun = time.perf_counter()
    for _, indices in loader:
        came.append(indices.clone())
    seconds = time.perf_counter() - begun
    check_exactly_once(came, num_samples)
    return num_samples / seconds


def _show(results: Sequence[dict[str, Any]], as_markdown: bool) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160)
    for workload in results:
        rows = list(map(list, _rows(workload["runs"])))
        if as_markdown:
            print(f"### {workload['title']}\n\n{markdown_table(_HEADER, rows)}\n")
        else:
            print_table(console, workload["title"], _HEADER, rows)


def _rows(runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    rows = []
    for loader in dict.fromkeys(run["loader"] for run in runs):
        cells = [TITLES[loader]]
        for figure in ("first", "second"):
            ratios = paired_ratios(
                by_repeat(runs, loader, figure), by_repeat(runs, REFERENCE, figure)
            )
            cells.append(_text(ratios.values(), 2))
        cells.append(_text(by_repeat(runs, loader, "workers").values(), 0))
        rows.append(cells)
    return rows


def _text(values: Any, digits: int) -> str:
    return spread(values).text(digits) if values else "-"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.auto_workers",
        description='num_workers="auto" beside fixed numbers of workers.',
    )
    known = {name: WORKLOADS[name] for name in WORKLOAD_NAMES}
    add_runs(parser, known, LOADERS)
    parser.add_argument(
        "--times", type=positive, default=2, help="a pass is so many full epochs long (default: 2)"
    )
    parser.add_argument("--quick", action="store_true", help="a few samples: a smoke test")
    add_output(parser, can_read=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
