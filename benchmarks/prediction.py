"""How well ``hatchway simulate`` predicts: ``python -m benchmarks.prediction``.

Each repeat measures the work alone (``benchmarks.limit``), which gives the samples'
times, and then runs the live loaders beside the paced device, with demand at capacity.
The simulator gets the same times, order, workers and step. *Simulated over live* is its
epoch's length over the live one's.

What a loader itself takes is measured in the same run, before (``benchmarks.loader_costs``).
*Without costs* is the same simulation with all of these at 0: what a user gets who gives
``hatchway simulate`` nothing but times.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from rich.console import Console

from benchmarks import host
from benchmarks.arguments import add_output, add_runs
from benchmarks.counted import NOISE_TRIAL, calibrate, noise
from benchmarks.figures import Spread, spread
from benchmarks.limit import Limit, measure_limit
from benchmarks.loader_costs import measure_costs
from benchmarks.loaders import TITLES, shuffled
from benchmarks.report import markdown_table, print_table
from benchmarks.suite import rotated, run_loader, run_patiently, undisturbed_limit, without_advice
from benchmarks.workloads import WORKLOADS, IndexedDataset, Length, Scale, Workload
from hatchway.loader.simulator import Costs, Job, Setting

SCHEMA = "hatchway-prediction/1"
# Live loaders, and what the simulator calls them.
MODELS = {
    "torch": "torch",
    "torch-unordered": "torch-unordered",
    "hatchway": "ready",
    "hatchway-strict": "strict",
}
_HEADER = [
    "workload",
    "loader",
    "live, s",
    "simulated\nover live",
    "first batch,\nthe same",
    "without\ncosts",
    "costs: us a\nsample",
    "ms to the\nfirst sample",
    "others'\nCPU, %",
]


def predict(
    name: str,
    workload: Workload,
    dataset: IndexedDataset,
    order: Sequence[int],
    limit: Limit,
    step_s: float,
    costs: Costs,
) -> tuple[float, float]:
    """Simulate the epoch; its length, and when the first batch came."""
    times_s = [0.0] * len(order)
    for index, seconds in zip(order, limit.sample_s, strict=True):
        times_s[index] = seconds
    setting = Setting(
        num_workers=workload.num_workers,
        step_s=step_s,
        batch_size=workload.batch_size,
        num_cores=None if dataset.sleep_s else len(os.sched_getaffinity(0)),
        costs=costs,
    )
    outcome = Job(MODELS[name], times_s, setting).run(order)
    return outcome.epoch_s, outcome.first_batch_s


def run_workload(
    workload: Workload,
    loaders: Sequence[str],
    *,
    scale: Scale,
    repeats: int,
    patience_s: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure and simulate every loader, interleaved."""
    dataset, seed = workload.build(scale), scale.seed
    with without_advice():
        costs = {name: measure_costs(name, workload, dataset, seed) for name in loaders}
    for name in loaders:
        say(f"{workload.name}, {name}: {costs[name]}")
    measure_limit(dataset, range(0, len(dataset), 11), workload.num_workers)
    runs = []
    for repeat in range(repeats):
        order = list(shuffled(dataset, seed + repeat))
        limit = undisturbed_limit(dataset, order, workload.num_workers, patience_s)
        step_s = limit.work_s * workload.batch_size / len(dataset)
        for name in rotated(loaders, repeat):
            once = partial(
                run_loader, name, workload, dataset, order, seed + repeat, step_s, limit.work_s
            )
            live = run_patiently(once, patience_s)
            run = {"loader": name, "repeat": repeat, "error": live["error"]}
            if live["error"] is None:
                known = workload, dataset, order, limit, step_s
                epoch_s, first_batch_s = predict(name, *known, costs[name])
                bare_s, _ = predict(name, *known, Costs())
                run |= {
                    "live_s": live["epoch_s"],
                    "live_first_batch_s": live["first_batch_s"],
                    "foreign_share": live["foreign_share"],
                    "limit_cpu_share": limit.cpu_share,
                    "live_cpu_s": live["cpu_s"],
                    "simulated_cpu_s": sum(limit.sample_s) + len(order) * costs[name].sample_s,
                    "simulated_s": epoch_s,
                    "over_live": epoch_s / live["epoch_s"],
                    "first_batch_over_live": first_batch_s / live["first_batch_s"],
                    "bare_over_live": bare_s / live["epoch_s"],
                }
                say(f" {repeat + 1}/{repeats} {name}: {run['over_live']:.3f} of the live epoch")
            runs.append(run)
    return {
        "name": workload.name,
        "title": workload.title,
        "costs": {name: asdict(cost) for name, cost in costs.items()},
        "runs": runs,
        "summary": summarise(runs),
    }


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Give each loader's figures over the repeats."""
    good = [run for run in runs if run["error"] is None]
    figures = ("live_s", "over_live", "first_batch_over_live", "bare_over_live", "foreign_share")
    return {
        name: {
            figure: asdict(spread(run[figure] for run in good if run["loader"] == name))
            for figure in figures
        }
        for name in dict.fromkeys(run["loader"] for run in good)
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, simulate and print; return 1 if a live run failed."""
    options = _parser().parse_args(arguments)
    if options.read:
        return _show(json.loads(options.read.read_text()), options.markdown)
    length: Length = options.length
    operation_s = calibrate()
    noise_value_s = calibrate(noise, num_operations=NOISE_TRIAL)
    workloads = []
    for name in options.workloads:
        workload = WORKLOADS[name]
        scale = Scale(workload.num_samples(length), options.seed, operation_s, noise_value_s)
        workloads.append(
            run_workload(
                workload,
                options.loaders,
                scale=scale,
                repeats=options.repeats,
                patience_s=options.patience,
                say=lambda line: print(line, file=sys.stderr, flush=True),
            )
        )
    result = {
        "schema": SCHEMA,
        "definition": __doc__,
        "host": host.describe(),
        "options": {"seed": options.seed, "repeats": options.repeats, "length": length},
        "workloads": workloads,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return _show(result, options.markdown)


def _show(result: dict[str, Any], as_markdown: bool) -> int:
    rows, errors = [], []
    for workload in result["workloads"]:
        for name, figures in workload["summary"].items():
            costs = Costs(**workload["costs"][name])
            first_ms = (costs.fork_s + costs.boot_s) * 1e3
            ratios = (figures[key] for key in ("over_live", "first_batch_over_live"))
            rows.append(
                [
                    workload["name"],
                    TITLES[name],
                    Spread(**figures["live_s"]).text(),
                    *(Spread(**ratio).text(2) for ratio in ratios),
                    Spread(**figures["bare_over_live"]).text(2),
                    f"{costs.sample_s * 1e6:.1f}",
                    f"{first_ms:.0f} + {costs.fork_s * 1e3:.0f} each",
                    Spread(**figures["foreign_share"]).text(0, 100),
                ]
            )
        errors += [run for run in workload["runs"] if run["error"] is not None]
    if as_markdown:
        print(markdown_table(_HEADER, rows))
    else:
        console = Console(width=None if sys.stdout.isatty() else 180)
        print_table(console, "Simulated over live, median [min-max]", _HEADER, rows)
    for run in errors:
        print(f"error: {run['loader']}: {run['error']}")
    return 1 if errors else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prediction",
        description="What the simulator predicts, over what the live loaders take.",
    )
    add_runs(parser, WORKLOADS, MODELS)
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="as in `python -m benchmarks` (default: 0)",
    )
    parser.add_argument(
        "--length",
        choices=("full", "short", "quick"),
        default="full",
        help="of the epochs (default: full)",
    )
    add_output(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
