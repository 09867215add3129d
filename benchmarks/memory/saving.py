"""Saving memory step by step beside ``torch.save``: ``python -m benchmarks.memory.saving``.

A tensor of which some pages, drawn at random, are written to before each save. *Hatchway* saves
these to a chain (``hatchway.checkpoint``), *torch* saves all with ``torch.save`` to a file, each to
the same directory. Both by turns in one process; the first save of all is not counted. *Synced*,
torch's file is synced as Hatchway's always are; on ``/dev/shm`` that does nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.arguments import add_output, positive
from benchmarks.figures import by_repeat, paired_ratios, spread
from benchmarks.report import markdown_table, print_table, write_report
from hatchway.checkpoint import IncrementalSnapshot, restore

SCHEMA = "hatchway-saving/1"
PAGE_ITEMS = 1024
SHARES = (1, 10, 100)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="saving-") as directory:
        runs = list(_runs(Path(directory), options))
    write_report(options, SCHEMA, __doc__, runs=runs)
    _show(runs, options)
    return 0


def _runs(directory: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    tensor = torch.rand((options.mib << 20) // 4)
    other = torch.zeros_like(tensor)
    num_pages = len(tensor) // PAGE_ITEMS
    for percent in options.shares:
        steps = directory / str(percent)
        with IncrementalSnapshot({"tensor": tensor}, steps) as snapshot:
            full = snapshot.save()
            for repeat in range(options.repeats):
                pages = torch.randperm(num_pages)[: max(1, num_pages * percent // 100)]
                tensor[pages * PAGE_ITEMS] = float(repeat)
                seconds: dict[str, float] = {}
                for name in ("torch", "hatchway") if repeat % 2 else ("hatchway", "torch"):
                    if name == "torch":
                        seconds[name] = _torch_s(tensor, directory / "all.pt", options.synced)
                    else:
                        saved = snapshot.save()
                        seconds[name] = saved.seconds
                begun = time.perf_counter()
                restore(steps, {"tensor": other})
                restore_s = time.perf_counter() - begun
                if not torch.equal(tensor, other):
                    raise AssertionError(f"step {saved.step} came back as another")
                print(f"{percent} % {repeat + 1}/{options.repeats}: {seconds}", file=sys.stderr)
                figures = {
                    "percent": percent,
                    "repeat": repeat,
                    "error": None,
                    "full_s": full.seconds,
                    "restore_s": restore_s,
                    "file_bytes": saved.path.stat().st_blocks * 512,
                }
                for name, taken in seconds.items():
                    yield {"loader": name, "save_s": taken, **figures}
        for path in steps.iterdir():
            path.unlink()


def _torch_s(tensor: torch.Tensor, path: Path, synced: bool) -> float:
    path.unlink(missing_ok=True)
    begun = time.perf_counter()
    torch.save(tensor, path)
    if synced:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - begun


def _show(runs: list[dict[str, Any]], options: argparse.Namespace) -> None:
    header = ["dirty, %", "Hatchway, ms", "file, MiB", "torch.save, ms", "times", "restored, ms"]
    rows = []
    for percent in options.shares:
        some = [run for run in runs if run["percent"] == percent]
        ours, torchs = (by_repeat(some, name, "save_s") for name in ("hatchway", "torch"))
        rows.append(
            [
                str(percent),
                spread(ours.values()).text(0, 1e3),
                spread(by_repeat(some, "hatchway", "file_bytes").values()).text(0, 2**-20),
                spread(torchs.values()).text(0, 1e3),
                spread(paired_ratios(torchs, ours).values()).text(1),
                spread(by_repeat(some, "hatchway", "restore_s").values()).text(0, 1e3),
            ]
        )
    if options.markdown:
        print(markdown_table(header, rows))
    else:
        print_table(Console(), f"Saving a tensor of {options.mib} MiB", header, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory.saving",
        description="Saving what was written to a tensor, beside torch.save of all of it.",
    )
    parser.add_argument(
        "--mib", type=positive, default=2048, help="of the tensor (default: %(default)s)"
    )
    parser.add_argument(
        "--shares", type=positive, nargs="+", default=list(SHARES), help="percents that are dirty"
    )
    parser.add_argument(
        "--directory", default="/dev/shm", help="where to save (default: %(default)s)"
    )
    parser.add_argument("--synced", action="store_true", help="sync torch's file as well")
    parser.add_argument("--repeats", type=positive, default=5, help="saves of each (default: 5)")
    add_output(parser, can_read=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
