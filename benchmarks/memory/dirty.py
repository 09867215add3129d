"""What tracking written pages costs: ``python -m benchmarks.memory.dirty``.

A program in C writes one byte to each of some pages, drawn at random, and then asks which they
were. *bare* asks by the same system calls from C, with nothing around them; the others are the
backends of ``DirtyTracker``. All run in one process by turns, over the same memory. A turn begins
to track, writes and asks once unmeasured, then does so several times.

*program* is what a page costs the program when it is written to, without what it costs untracked;
*collector* is what it costs to ask, for each page that was written. *over bare* is the sum of both
over that of *bare* in the same repeat. *answered* is what the tracker called dirty over what was.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console

from benchmarks.arguments import add_output, positive
from benchmarks.figures import by_repeat, paired_ratios, spread
from benchmarks.report import markdown_table, print_table, write_report
from benchmarks.suite import rotated
from hatchway.memory import DirtyTracker

SCHEMA = "hatchway-dirty-pages/1"
PAGE = mmap.PAGESIZE
SIZES_MIB = (64, 256, 1024)
SHARES = (1, 10, 50, 100)
WAYS = ("bare", "pagemap_scan", "default", "hash")
NUM_ROUNDS = 5


class Way(Protocol):
    """A way to track; it tells how many pages are dirty."""

    def open(self) -> None: ...

    def collect(self) -> int: ...

    def close(self) -> None: ...


class Bare:
    """The system calls, from C."""

    def __init__(self, library: ctypes.CDLL, start: int, end: int) -> None:
        self._library, self._range = library, (ctypes.c_uint64(start), ctypes.c_uint64(end))

    def open(self) -> None:
        """Begin."""
        if self._library.bare_open(*self._range):
            raise OSError("this kernel has no asynchronous write-protection")

    def collect(self) -> int:
        """How many pages were written."""
        return int(self._library.bare_collect(*self._range))

    def close(self) -> None:
        """End."""
        self._library.bare_close(*self._range)


class Ours:
    """A ``DirtyTracker``."""

    def __init__(self, memory: mmap.mmap, **settings: Any) -> None:
        self._tracker = DirtyTracker(memory, **settings)

    def open(self) -> None:
        """Begin."""
        self._tracker.start()

    def collect(self) -> int:
        """How many pages were written."""
        return self._tracker.collect().num_pages

    def close(self) -> None:
        """End."""
        self._tracker.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory:
        library = _library(Path(directory))
        settings = [
            {"mib": mib, "percent": share, "runs": list(_runs(library, mib, share, options))}
            for mib in options.mib
            for share in options.shares
        ]
    write_report(options, SCHEMA, __doc__, settings=settings)
    _show(settings, options.markdown)
    return 0


def _library(directory: Path) -> ctypes.CDLL:
    path = directory / "bare.so"
    source = Path(__file__).with_name("bare.c")
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(path), str(source)]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(path))
    library.bare_collect.restype = ctypes.c_int64
    library.write_pages.restype = ctypes.c_double
    return library


def _runs(
    library: ctypes.CDLL, mib: int, percent: int, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    memory = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array = np.frombuffer(memory, np.uint8)
    array[::PAGE] = 1
    start: int = array.__array_interface__["data"][0]
    num_pages = len(array) // PAGE
    ways: dict[str, Way] = {
        "bare": Bare(library, start, start + len(array)),
        "pagemap_scan": Ours(memory, backend="pagemap_scan", whole_above=None),
        "default": Ours(memory),
        "hash": Ours(memory, backend="hash", whole_above=None),
    }
    random = np.random.default_rng(mib + percent)

    def write(pages: np.ndarray[Any, np.dtype[np.uint64]]) -> float:
        value = ctypes.c_char(int(random.integers(256)))
        address, listed = ctypes.c_void_p(start), ctypes.c_void_p(pages.ctypes.data)
        return float(library.write_pages(address, listed, ctypes.c_uint64(len(pages)), value))

    for repeat in range(options.repeats):
        pages = random.permutation(num_pages)[: max(1, num_pages * percent // 100)]
        pages = pages.astype(np.uint64)
        untracked_s = min(write(pages) for _ in range(3))
        for name in rotated([way for way in WAYS if way in options.ways], repeat):
            way, num_dirty = ways[name], 0
            write_s = collect_s = 0.0
            way.open()
            try:
                write(pages)
                way.collect()
                for _ in range(NUM_ROUNDS):
                    write_s += write(pages) - untracked_s
                    begun = time.perf_counter()
                    num_dirty += way.collect()
                    collect_s += time.perf_counter() - begun
            finally:
                way.close()
            num_written = NUM_ROUNDS * len(pages)
            print(f"{mib} MiB {percent} % {repeat + 1}: {name}", file=sys.stderr)
            yield {
                "loader": name,
                "repeat": repeat,
                "error": None,
                "program_s": write_s / num_written,
                "collector_s": collect_s / num_written,
                "both_s": (write_s + collect_s) / num_written,
                "answered": num_dirty / num_written,
            }


def _show(settings: list[dict[str, Any]], markdown: bool) -> None:
    header = ["MiB", "dirty, %", "way", "program, us", "collector, us", "over bare", "answered"]
    rows = []
    for setting in settings:
        runs = setting["runs"]
        bare = by_repeat(runs, "bare", "both_s")
        for name in WAYS:
            both = by_repeat(runs, name, "both_s")
            if not both:
                continue
            ratios = paired_ratios(both, bare)
            rows.append(
                [
                    str(setting["mib"]),
                    str(setting["percent"]),
                    name,
                    spread(by_repeat(runs, name, "program_s").values()).text(2, 1e6),
                    spread(by_repeat(runs, name, "collector_s").values()).text(2, 1e6),
                    spread(ratios.values()).text() if ratios else "-",
                    spread(by_repeat(runs, name, "answered").values()).text(),
                ]
            )
    if markdown:
        print(markdown_table(header, rows))
    else:
        print_table(Console(), "What a dirty page costs", header, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory.dirty",
        description="What tracking written pages costs, beside the bare system calls.",
    )
    parser.add_argument(
        "--mib", type=positive, nargs="+", default=list(SIZES_MIB), help="default: 64 256 1024"
    )
    parser.add_argument(
        "--shares", type=positive, nargs="+", default=list(SHARES), help="percents that are dirty"
    )
    parser.add_argument(
        "--ways", choices=WAYS, nargs="+", default=list(WAYS), help="default: all of them"
    )
    parser.add_argument("--repeats", type=positive, default=5, help="runs of each (default: 5)")
    add_output(parser, can_read=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
