"""Reads of a chain of qcow2 images in this process: ``python -m benchmarks.disk.reads``.

A disk (1 GiB) in clusters of 64 KiB, each in one file of the chain, drawn at random, made by
qemu-img and qemu-io. Each run is a process of its own that opens the chain, reads one sector of
each region of 32 MiB (*first reads*), and then 4 KiB at random places (*reads*), page cache warm.

*over pread* is reads a second over those of a bare loop of ``os.pread`` in the same process, of
the same bytes of the same files, whose places were worked out before; the two run by turns.
*over one file* is reads a second over those of the chain of one file in the same repeat.
*Opening* is beside a whole run of ``qemu-io -r -c "read 0 4k"``, without what that takes for one
file. *Resident* is what the process holds then beyond what it held before it opened.
*Index* is what building the stored index takes over what ``os.pread`` takes in the same process
for the headers and tables of the same files, read before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.arguments import add_output, positive
from benchmarks.disk.chains import CLUSTER, make_spread, run_qemu
from benchmarks.figures import by_repeat, paired_ratios, spread
from benchmarks.report import markdown_table, print_table, write_report
from benchmarks.suite import rotated

SCHEMA = "hatchway-chain-reads/2"
REGION, READ = 1 << 25, 4096
OFFSET_MASK = (1 << 56) - 512
LENGTHS = (1, 10, 100, 1000)
NUM_READS, NUM_TURNS = 100_000, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0."""
    options = _parser().parse_args(arguments)
    lengths = sorted({1, *options.lengths})
    with tempfile.TemporaryDirectory() as directory:
        tops = {
            length: make_spread(Path(directory) / str(length), length, options.mib << 20)
            for length in lengths
        }
        runs = list(_runs(tops, options.repeats, options.reads))
    write_report(options, SCHEMA, __doc__, runs=runs)
    _show(runs, lengths, options.markdown)
    return 0


def _runs(tops: dict[int, Path], repeats: int, num_reads: int) -> Iterator[dict[str, Any]]:
    for top in tops.values():  # the page cache is warm from here on
        _stock_open_s(top)
    for repeat in range(repeats):
        for length in rotated(list(tops), repeat):
            call = f"measure({str(tops[length])!r}, {num_reads})"
            code = f"from benchmarks.disk.reads import measure; {call}"
            done = subprocess.run(
                [sys.executable, "-c", code],
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                check=True,
            )
            run = json.loads(done.stdout)
            run["stock_open_s"] = _stock_open_s(tops[length])
            print(f"{repeat + 1}/{repeats} {length}: {run}", file=sys.stderr)
            yield {"loader": str(length), "repeat": repeat, "error": None, **run}


def measure(top: str, num_reads: int) -> None:
    """Measure in this process, and print the figures as JSON."""
    from hatchway.disk import Chain

    before = _resident_bytes()
    begun = time.perf_counter()
    chain = Chain(top)
    opened = time.perf_counter()
    for offset in range(0, chain.size, REGION):
        chain.read_at(offset, 512)
    merged = time.perf_counter()
    resident = _resident_bytes() - before
    place = random.Random(2)
    offsets = [place.randrange(chain.size // READ) * READ for _ in range(num_reads)]
    bare = []
    for offset in offsets:
        (extent,) = chain.map(offset, offset + READ)
        assert extent.layer is not None
        assert extent.host_offset is not None
        bare.append((chain.images[extent.layer].file.fd, extent.host_offset))
    rates: dict[str, list[float]] = {"chain": [], "pread": []}
    for _ in range(NUM_TURNS + 1):
        rates["chain"].append(num_reads / _seconds_of_chain(chain, offsets))
        rates["pread"].append(num_reads / _seconds_of_pread(bare))
    figures = {
        "open_s": opened - begun,
        "first_reads_s": merged - opened,
        "reads_per_s": max(rates["chain"][1:]),
        "pread_per_s": max(rates["pread"][1:]),
        "resident_bytes": resident,
        "num_descriptors": len(os.listdir("/proc/self/fd")),
        "index_over_tables": _index_over_tables(chain.images[:-1]),
    }
    print(json.dumps(figures))


def _seconds_of_chain(chain: Any, offsets: list[int]) -> float:
    read = chain.read_at
    begun = time.perf_counter()
    for offset in offsets:
        read(offset, READ)
    return time.perf_counter() - begun


def _seconds_of_pread(bare: list[tuple[int, int]]) -> float:
    read = os.pread
    begun = time.perf_counter()
    for fd, offset in bare:
        read(fd, READ, offset)
    return time.perf_counter() - begun


def _index_over_tables(images: list[Any]) -> float | None:
    """None where no file lies below the active one."""
    from hatchway.disk.index import build

    if not images:
        return None
    before = _seconds_of_tables(images)
    begun = time.perf_counter()
    built = build(images)
    seconds = time.perf_counter() - begun
    built.path.unlink()  # the next run opens the chain without it
    return 2 * seconds / (before + _seconds_of_tables(images))


def _seconds_of_tables(images: list[Any]) -> float:
    read = os.pread
    begun = time.perf_counter()
    for image in images:
        fd, (l1_offset, l1_size) = image.file.fd, image.l1_at
        read(fd, READ, 0)
        for (entry,) in struct.iter_unpack(">Q", read(fd, l1_size * 8, l1_offset)):
            if entry & OFFSET_MASK:
                read(fd, CLUSTER, entry & OFFSET_MASK)
    return time.perf_counter() - begun


def _stock_open_s(top: Path) -> float:
    begun = time.perf_counter()
    run_qemu("qemu-io", "-r", "-f", "qcow2", "-c", "read -q 0 4k", str(top))
    return time.perf_counter() - begun


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _show(runs: list[dict[str, Any]], lengths: list[int], markdown: bool) -> None:
    header = [
        "files",
        "reads a second",
        "over pread",
        "over one file",
        "first reads, ms",
        "opening, ms",
        "stock opening, ms",
        "resident, MiB",
        "descriptors",
        "index, over tables",
    ]
    one = by_repeat(runs, "1", "reads_per_s")
    stock_one = by_repeat(runs, "1", "stock_open_s")
    rows = []
    for length in lengths:
        figures = {
            name: by_repeat(runs, str(length), name)
            for name in runs[0]
            if name not in ("loader", "repeat", "error")
        }
        reads, stock = figures["reads_per_s"], figures["stock_open_s"]
        extra = {repeat: seconds - stock_one[repeat] for repeat, seconds in stock.items()}
        rows.append(
            [
                str(length),
                spread(reads.values()).text(0),
                spread(paired_ratios(reads, figures["pread_per_s"]).values()).text(),
                spread(paired_ratios(reads, one).values()).text(),
                spread(figures["first_reads_s"].values()).text(0, 1e3),
                spread(figures["open_s"].values()).text(1, 1e3),
                "-" if length == 1 else spread(extra.values()).text(0, 1e3),
                spread(figures["resident_bytes"].values()).text(1, 2**-20),
                f"{max(figures['num_descriptors'].values()):.0f}",
                "-" if length == 1 else spread(figures["index_over_tables"].values()).text(1),
            ]
        )
    if markdown:
        print(markdown_table(header, rows))
    else:
        print_table(Console(), "4 KiB random reads of a chain", header, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.disk.reads",
        description="Reads of a chain of qcow2 images in this process, beside os.pread.",
    )
    parser.add_argument(
        "--lengths", type=positive, nargs="+", default=list(LENGTHS), help="default: 1 10 100 1000"
    )
    parser.add_argument(
        "--reads", type=positive, default=NUM_READS, help="reads a turn (default: %(default)s)"
    )
    parser.add_argument(
        "--mib", type=positive, default=1024, help="of the disk (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=positive, default=5, help="runs of each (default: 5)")
    add_output(parser, can_read=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
