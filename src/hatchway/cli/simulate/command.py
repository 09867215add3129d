"""The options of ``hatchway simulate``, and how it is run.

The simulator is imported by ``run`` only: naming the options costs nothing.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

_ORDERS = ("ready", "strict", "both")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``hatchway simulate``."""
    parser.description = (
        "Predict what data loaders would do with samples of recorded times: the time of an "
        "epoch, the devices' waits, how far samples come after their turn. Hatchway's own "
        "decisions are run as they are; torch and MinatoLoader are models of what is published."
    )
    parser.add_argument(
        "times", type=Path, help="a CSV file with a header 'seconds' and a sample a row"
    )
    parser.add_argument(
        "--workers",
        type=_positive,
        default=8,
        help="worker processes of all devices together (8); each device's loader has its "
        "share of them, they are not shared",
    )
    parser.add_argument(
        "--devices",
        type=_positive,
        default=1,
        help="devices that train in step (1), each with a rank of its own: samples are dealt "
        "as DistributedSampler does, and a step begins when every rank has its batch",
    )
    parser.add_argument(
        "--step",
        type=_seconds,
        metavar="SECONDS",
        help="of the devices for a batch each (default: as long as the workers take for them)",
    )
    parser.add_argument("--batch-size", type=_positive, default=8, help="of each device (8)")
    parser.add_argument(
        "--prefetch-factor", type=_positive, default=2, help="batches ahead for each worker (2)"
    )
    parser.add_argument(
        "--epochs", type=_positive, default=2, help="the second one knows the samples' costs (2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shuffled order (0)")
    parser.add_argument("--order", choices=_ORDERS, default="both", help="Hatchway's (both)")
    parser.add_argument(
        "--max-displacement",
        type=_whole,
        metavar="SAMPLES",
        help="Hatchway's bound of how far samples come after their turn (default: none)",
    )
    parser.add_argument(
        "--max-workers",
        type=_positive,
        metavar="WORKERS",
        help="Hatchway's number of workers follows the load (num_workers='auto'), from each "
        "device's share of --workers up to this many (default: it is fixed)",
    )
    parser.add_argument(
        "--cores",
        type=_positive_number,
        help="samples compute: at most so many at full speed at once, on all workers together "
        "(default: they wait, as for a network)",
    )
    parser.add_argument(
        "--overhead",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="of every loader for a sample, beyond its time (0)",
    )
    parser.add_argument(
        "--start",
        type=_seconds,
        default=0.015,
        metavar="SECONDS",
        help="to start a worker, one after the other (0.015: by fork, where it was measured)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object instead")


def run(args: argparse.Namespace) -> int:
    """Simulate and print.

    Returns:
        0, or 2 if the times or the options cannot be used.
    """
    from hatchway.cli.simulate.times import TimesError, read_times

    try:
        times_s = read_times(args.times)
    except TimesError as error:
        return _refuse(str(error))
    if args.workers < args.devices:
        return _refuse(
            f"--workers {args.workers} is less than --devices {args.devices}: each device's "
            "loader needs a worker of its own"
        )
    if args.max_workers is not None and args.max_workers * args.devices < args.workers:
        return _refuse(
            f"--max-workers {args.max_workers} is less than a device's share of --workers "
            f"{args.workers}, which its loader begins with"
        )
    from hatchway.cli.simulate.report import Report
    from hatchway.loader.simulator import LOADERS, Costs, Setting, simulate

    setting = Setting(
        num_workers=args.workers,
        num_devices=args.devices,
        step_s=args.step,
        batch_size=args.batch_size,
        prefetch_factor=args.prefetch_factor,
        num_cores=args.cores,
        seed=args.seed,
        max_displacement=args.max_displacement,
        max_workers=args.max_workers,
        costs=Costs(sample_s=args.overhead, fork_s=args.start),
    )
    left_out = {"both": (), "ready": ("strict",), "strict": ("ready",)}[args.order]
    outcomes = {
        loader: simulate(loader, times_s, setting, args.epochs)
        for loader in LOADERS
        if loader not in left_out
    }
    report = Report(str(args.times), times_s, setting, outcomes)
    if args.json:
        sys.stdout.write(report.to_json() + "\n")
    else:
        report.show()
    return 0


def _refuse(reason: str) -> int:
    sys.stderr.write(f"hatchway simulate: {reason}\n")
    return 2


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 on, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds from 0 on, not {text!r}")
    return seconds


def _positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return number
