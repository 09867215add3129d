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
        type=_loaders,
        default=default.loaders,
        help=f"some of {','.join(LOADERS)} (default: all)",
    )
    for name, value, kind, what in (
        ("--seeds", default.num_seeds, _positive, "runs of each loader"),
        ("--epochs", default.num_epochs, _positive, "epochs of each run"),
        ("--learning-rate", default.learning_rate, _positive_rate, "of the training"),
    ):
        parser.add_argument(name, type=kind, default=value, help=f"{what} (default: {value})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write raw runs and summary")
    parser.add_argument("--read", type=Path, metavar="FILE", help="show such a file, run nothing")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a PNG")
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    return parser


def _loaders(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, text.split(",")))
    if not names or not set(names) <= set(LOADERS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of some of {', '.join(LOADERS)}")
    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _positive_rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return rate
