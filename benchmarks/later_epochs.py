"""The second epoch beside the first: ``python -m benchmarks.later_epochs``.

Workers stay between the epochs where a loader can keep them, set up as its
documentation says: ``persistent_workers=True`` for torch and Hatchway, a continuous
source for SPDL, one iterator over both epochs for Grain; torchdata.nodes starts its
workers anew. Each loader runs two short epochs beside the paced device, with demand at
capacity, and the loop asks for the second epoch after the last step of the first one.
*First batch* is the time from ``iter()`` to its arrival, in either epoch. Loaders that
read on over the end of an epoch may have it ready. *Steady* is the time from then to the
end of the last step, over the work alone; *late* by how many samples the 99th of a hundred
came after its turn: in the second epoch a loader may know what is slow.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from benchmarks import host
from benchmarks.arguments import add_output, add_runs
from benchmarks.counted import NOISE_TRIAL, calibrate, noise
from benchmarks.epoch import Epoch, children, run_epoch, wait_for_ends
from benchmarks.figures import Spread, by_repeat, paired_ratios, spread
from benchmarks.limit import measure_limit
from benchmarks.loaders import (
    DEFAULT_LOADERS,
    LOADERS,
    TITLES,
    build_loader,
    shuffled,
    without_missing,
)
from benchmarks.report import markdown_table, print_table
from benchmarks.suite import deadline_s, rotated, what_failed, without_advice
from benchmarks.summary import REFERENCE
from benchmarks.workloads import WORKLOADS, IndexedDataset, Scale, Workload

SCHEMA = "hatchway-later-epochs/1"
# More than a loader makes ahead, which is 2 a worker.
_BATCHES_A_WORKER = 4
_FIGURES = (
    "first_epoch_s",
    "second_epoch_s",
    "first_steady",
    "second_steady",
    "first_late",
    "second_late",
)
_HEADER = [
    "loader",
    "first batch,\n1st epoch, ms",
    "2nd,\nms",
    "2nd,\nover torch",
    "steady,\n1st",
    "2nd",
    "late, 99 %,\n1st",
    "2nd",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if any run lost or doubled a sample, failed or hung."""
    options = _parser().parse_args(arguments)
    loaders, left_out = without_missing(options.loaders)
    if left_out:
        print(left_out, file=sys.stderr)
    operation_s = calibrate()
    noise_value_s = calibrate(noise, num_operations=NOISE_TRIAL)
    workloads = []
    for name in options.workloads:
        workload = WORKLOADS[name]
        count = workload.num_samples("full") if options.full else num_samples(workload)
        scale = Scale(count, options.seed, operation_s, noise_value_s)
        runs = _run_workload(workload, scale, loaders, options.repeats)
        workloads.append(
            {
                "name": name,
                "title": workload.title,
                "num_batches": scale.num_samples // workload.batch_size,
                "runs": runs,
                "summary": summarise(runs),
            }
        )
    result = {
        "schema": SCHEMA,
        "definition": __doc__,
        "host": host.describe(),
        "options": {"seed": options.seed, "repeats": options.repeats, "full": options.full},
        "workloads": workloads,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return _show(result, options.markdown)


def num_samples(workload: Workload) -> int:
    """Samples of an epoch that is longer than what a loader makes ahead."""
    least = _BATCHES_A_WORKER * workload.num_workers
    return workload.batch_size * max(workload.num_batches["quick"], least)


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Give each loader's figures over the repeats, and its second epoch beside torch's."""
    summary: dict[str, dict[str, dict[str, float]]] = {}
    reference = by_repeat(runs, REFERENCE, "second_epoch_s")
    for loader in dict.fromkeys(run["loader"] for run in runs):
        figures = {name: by_repeat(runs, loader, name) for name in _FIGURES}
        figures["second_over_torch"] = paired_ratios(figures["second_epoch_s"], reference)
        summary[loader] = {
            name: asdict(spread(values.values())) for name, values in figures.items() if values
        }
    return summary


def _run_workload(
    workload: Workload, scale: Scale, loaders: Sequence[str], repeats: int
) -> list[dict[str, Any]]:
    dataset = workload.build(scale)
    runs = []
    for repeat in range(repeats):
        limit = measure_limit(dataset, range(len(dataset)), workload.num_workers)
        for place, name in enumerate(rotated(loaders, repeat)):
            run = _run_loader(name, workload, dataset, scale.seed + repeat, limit.work_s)
            runs.append({"loader": name, "repeat": repeat, "place": place, **run})
            said = run["error"] or f"{run['second_epoch_s'] * 1e3:.0f} ms"
            print(f"{workload.name} {repeat + 1}/{repeats}, {name}: {said}", file=sys.stderr)
    return runs


def _run_loader(
    name: str, workload: Workload, dataset: IndexedDataset, seed: int, limit_s: float
) -> dict[str, Any]:
    before = children()
    sampler = shuffled(dataset, seed)
    step_s = limit_s * workload.batch_size / len(dataset)

    def run(build: Callable[[], Any], at_end: Callable[[Any], Any]) -> tuple[Epoch, Any]:
        return run_epoch(
            build,
            order=list(sampler),
            batch_size=workload.batch_size,
            step_s=step_s,
            deadline_s=deadline_s(limit_s),
            at_end=at_end,
        )

    try:
        with without_advice():
            first, loader = run(
                lambda: build_loader(name, workload, dataset, seed, num_epochs=2),
                at_end=lambda loader: loader,
            )
            kept = [loader]
            del loader
            second, _ = run(kept.pop, at_end=lambda _: None)
    except Exception as error:  # a loader's failure is a result: name it, go on with the others
        return {"error": what_failed(error)}
    wait_for_ends(before)
    return {
        "error": None,
        "first_epoch_s": first.first_batch_s,
        "second_epoch_s": second.first_batch_s,
        "first_steady": first.steady_s / limit_s,
        "second_steady": second.steady_s / limit_s,
        "first_late": first.late_samples_p99,
        "second_late": second.late_samples_p99,
    }


def _show(result: dict[str, Any], as_markdown: bool) -> int:
    failed = False
    console = Console(width=None if sys.stdout.isatty() else 160)
    for workload in result["workloads"]:
        title = f"{workload['title']} ({workload['num_batches']} batches an epoch)"
        rows = [
            [TITLES[loader], *_cells(figures)] for loader, figures in workload["summary"].items()
        ]
        if as_markdown:
            print(f"### {title}\n\n{markdown_table(_HEADER, rows)}\n")
        else:
            print_table(console, title, _HEADER, rows)
        for run in workload["runs"]:
            if run["error"] is not None:
                failed = True
                print(f"error: {workload['name']}, {run['loader']}: {run['error']}")
    return 1 if failed else 0


def _cells(figures: dict[str, dict[str, Any]]) -> list[str]:
    shown = (
        ("first_epoch_s", 0, 1e3),
        ("second_epoch_s", 1, 1e3),
        ("second_over_torch", 4, 1.0),
        ("first_steady", 3, 1.0),
        ("second_steady", 3, 1.0),
        ("first_late", 0, 1.0),
        ("second_late", 0, 1.0),
    )
    return [
        Spread(**figures[name]).text(digits, scale) if name in figures else "-"
        for name, digits, scale in shown
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.later_epochs",
        description="The second epoch beside the first, with workers that stay.",
    )
    add_runs(parser, WORKLOADS, LOADERS, DEFAULT_LOADERS)
    parser.add_argument("--full", action="store_true", help="epochs of full length")
    add_output(parser, can_read=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
