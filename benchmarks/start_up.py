"""The first batch of the first epoch, and the import: ``python -m benchmarks.start_up``.

Each run is a process of its own that imports torch, or torch and Hatchway, makes a loader and
takes one batch. *First batch* is the time from ``iter()`` to it, *over torch* the ratio to stock
torch's in the same repeat, where both ran one after the other, the first one by turns. With the
start methods ``forkserver`` and ``spawn`` each worker imports what the script imports.

*Import* is what ``import torch, hatchway; hatchway.DataLoader`` takes beyond ``import torch``,
in one process after the other: wall time and processor time. Byte code is cached, as after an
installation.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.arguments import add_output, names, positive
from benchmarks.figures import by_repeat, paired_ratios, spread
from benchmarks.report import markdown_table, print_table, write_report
from benchmarks.suite import rotated

SCHEMA = "hatchway-start-up/1"
METHODS = dict.fromkeys(("fork", "forkserver", "spawn"))
LOADERS = {
    "torch": "from torch.utils.data import DataLoader",
    "hatchway": "from hatchway import DataLoader",
}
TITLES = {"torch": "torch, ms", "hatchway": "Hatchway, ms"}
NUM_WORKERS = (2, 8)
BATCH_SIZE = 32
# The same for both, but for one line: what else a script imports its spawned workers import.
_SCRIPT = """
import time, warnings
import torch
from torch.utils.data import Dataset
{loader}

class Images(Dataset):
    def __len__(self):
        return 4096
    def __getitem__(self, index):
        return torch.full((3, 32, 32), float(index))

if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    loader = DataLoader(
        Images(), {batch_size}, shuffle=True, num_workers={num_workers},
        multiprocessing_context={method!r},
    )
    begun = time.perf_counter()
    iterator = iter(loader)
    next(iterator)
    print(time.perf_counter() - begun)
"""
_IMPORT = """
import time, torch
wall, processor = time.perf_counter(), time.process_time()
import hatchway
hatchway.DataLoader
print(time.perf_counter() - wall, time.process_time() - processor)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0."""
    options = _parser().parse_args(arguments)
    settings = [(method, count) for method in options.methods for count in options.workers]
    imports = [_in_a_process(_IMPORT) for _ in range(options.repeats + 1)][1:]
    results = [
        {"method": method, "num_workers": count, "runs": _runs(method, count, options.repeats)}
        for method, count in settings
    ]
    write_report(options, SCHEMA, __doc__, imports=imports, settings=results)
    _show(imports, results, options.markdown)
    return 0


def _runs(method: str, num_workers: int, repeats: int) -> list[dict[str, Any]]:
    runs = []
    for repeat in range(repeats):
        for name in rotated(list(LOADERS), repeat):
            script = _SCRIPT.format(
                loader=LOADERS[name],
                batch_size=BATCH_SIZE,
                num_workers=num_workers,
                method=method,
            )
            (seconds,) = _in_a_process(script)
            runs.append({"loader": name, "repeat": repeat, "error": None, "first_batch_s": seconds})
            print(f"{method}, {num_workers}, {name}: {seconds * 1e3:.0f} ms", file=sys.stderr)
    return runs


def _in_a_process(script: str) -> list[float]:
    """The numbers that a script prints."""
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "script.py"  # a file, which workers that are spawned import
        path.write_text(script)
        done = subprocess.run(
            (sys.executable, str(path)), env=environment, capture_output=True, text=True, check=True
        )
    return [float(word) for word in done.stdout.split()]


def _show(
    imports: Sequence[Sequence[float]], results: Sequence[dict[str, Any]], as_markdown: bool
) -> None:
    wall, processor = (spread(values).text(0, 1e3) for values in zip(*imports, strict=True))
    print(f"import, ms beyond torch: {wall}; processor time {processor}")
    header = ["start method", "workers", *TITLES.values(), "over torch"]
    rows = []
    for result in results:
        seconds = {name: by_repeat(result["runs"], name, "first_batch_s") for name in LOADERS}
        ratios = paired_ratios(seconds["hatchway"], seconds["torch"])
        cells = [spread(seconds[name].values()).text(0, 1e3) for name in LOADERS]
        count = str(result["num_workers"])
        rows.append([result["method"], count, *cells, spread(ratios.values()).text()])
    if as_markdown:
        print(markdown_table(header, rows))
    else:
        console = Console(width=None if sys.stdout.isatty() else 160)
        print_table(console, "First batch", header, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.start_up",
        description="The first batch of the first epoch, and the import, beside stock torch.",
    )
    parser.add_argument(
        "--methods", type=names(METHODS), default=tuple(METHODS), help="default: all"
    )
    parser.add_argument(
        "--workers", type=positive, nargs="+", default=NUM_WORKERS, help="default: 2 8"
    )
    parser.add_argument("--repeats", type=positive, default=5, help="runs of each (default: 5)")
    add_output(parser, can_read=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
