"""Options of ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from benchmarks import report
from benchmarks.arguments import add_output, add_runs, positive_ratios
from benchmarks.loaders import DEFAULT_LOADERS, LOADERS, without_missing
from benchmarks.suite import Options, run_suite
from benchmarks.workloads import WORKLOADS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; return 1 if any run lost or doubled a sample, failed or hung."""
    options = _parser().parse_args(arguments)
    if options.read:
        result = json.loads(options.read.read_text())
    else:
        result = _run(options)
        if options.json:
            options.json.write_text(json.dumps(result, indent=1, default=str) + "\n")
    if options.markdown:
        print(report.markdown(result))
    else:
        report.show(result, Console(width=None if sys.stdout.isatty() else 180))
    return 1 if report.errors(result) else 0


def _run(options: argparse.Namespace) -> dict[str, Any]:
    loaders, left_out = without_missing(options.loaders)
    if left_out:
        print(left_out, file=sys.stderr)
    if not loaders:
        raise SystemExit("none of the loaders asked for can run here")
    chosen = Options(
        workloads=options.workloads,
        loaders=loaders,
        repeats=1 if options.length == "quick" else options.repeats,
        seed=options.seed,
        demands=options.demand,
        length=options.length,
        patience_s=options.patience,
    )
    return run_suite(chosen, say=lambda line: print(line, file=sys.stderr, flush=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Hatchway's data loader beside torch's and other peers', on seven workloads.",
    )
    add_runs(parser, WORKLOADS, LOADERS, DEFAULT_LOADERS)
    parser.add_argument(
        "--demand",
        type=positive_ratios,
        metavar="RATIO[,RATIO...]",
        help="the device's demand over the workers' capacity, each run beside the same limit "
        "(default: 1, and 0.8,1,1.2 for the replays)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="on a shared machine, wait that long at most before each run for idle cores, "
        "and repeat runs that others disturbed (default: 0)",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--short",
        dest="length",
        action="store_const",
        const="short",
        default="full",
        help="short epochs, where starting up weighs more",
    )
    length.add_argument(
        "--quick",
        dest="length",
        action="store_const",
        const="quick",
        help="small and once: a smoke test",
    )
    add_output(parser)
    return parser
