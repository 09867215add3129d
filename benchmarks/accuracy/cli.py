"""Options of ``python -m benchmarks.accuracy``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.accuracy import picture, report
from benchmarks.accuracy.experiment import Setting, run_experiment
from benchmarks.accuracy.loaders import LOADERS
from benchmarks.arguments import add_output, names, positive, positive_number


def main(arguments: Sequence[str] | None = None) -> int:
    """Train with every loader and print tables; return 0."""
    options = _parser().parse_args(arguments)
    result = json.loads(options.read.read_text()) if options.read else _run(options)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result) + "\n")
    if options.plot:
        picture.draw(result, options.plot)
    if options.markdown:
        print(report.markdown(result))
    else:
        report.show(result, Console(width=None if sys.stdout.isatty() else 160))
    return 0


def _run(options: argparse.Namespace) -> dict[str, Any]:
    setting = Setting(
        loaders=options.loaders,
        num_seeds=options.seeds,
        num_epochs=options.epochs,
        learning_rate=options.learning_rate,
    )
    return run_experiment(setting, say=lambda line: print(line, file=sys.stderr, flush=True))


def _parser() -> argparse.ArgumentParser:
    default = Setting()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description="Whether reordering costs accuracy, where two of ten classes are slow to load.",
    )
    parser.add_argument(
        "--loaders",
        type=names(LOADERS),
        default=default.loaders,
        help=f"some of {','.join(LOADERS)} (default: all)",
    )
    for name, value, kind, what in (
        ("--seeds", default.num_seeds, positive, "runs of each loader"),
        ("--epochs", default.num_epochs, positive, "epochs of each run"),
        ("--learning-rate", default.learning_rate, positive_number, "of the training"),
    ):
        parser.add_argument(name, type=kind, default=value, help=f"{what} (default: {value})")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a PNG")
    add_output(parser)
    return parser
