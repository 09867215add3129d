"""Chains served over NBD, beside stock qemu-nbd: ``python -m benchmarks.disk.serving``.

A disk (1 GiB) in clusters of 64 KiB, made by qemu-img and qemu-io. *spread*: each cluster lies
in one file of the chain, drawn at random. *over*: the base is full, and each further file
overwrites some clusters, drawn at random. *sparse*: each file has a cluster in each 512 MiB, so
that it has all L2 tables and hardly any data. Both servers are read-only, each a process of its own
with a Unix socket, one after the other in each repeat, the page cache warm; fio (its ``nbd``
engine, one connection) reads 4 KiB at random with 1 and with 16 requests in flight, then 256 KiB
in order with 4, each for some seconds, after a second of the same that is not counted.

*Ready* is from the start of the process until it greets a client. *Resident* is what the process
holds, its interpreter and the libraries that others use as well included, *private* what no other
process has; *idle* before the first read, else after the last. *over stock* is ours over
qemu-nbd's of the same repeat; *over one file* is ours over ours with a chain of one file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.arguments import add_output, names, positive, positive_number
from benchmarks.disk.chains import make_over, make_sparse, make_spread
from benchmarks.disk.servers import SERVERS, served
from benchmarks.figures import by_repeat, paired_ratios, spread
from benchmarks.report import markdown_table, print_table, write_report
from benchmarks.suite import rotated

SCHEMA = "hatchway-chain-serving/2"
KINDS = {"spread": make_spread, "over": make_over, "sparse": make_sparse}
LENGTHS = (1, 10, 50, 100, 250, 500, 1000)
# Of each measurement: its name, and how fio is to read.
READS = {
    "depth_1": ("randread", "4k", 1, "iops"),
    "depth_16": ("randread", "4k", 16, "iops"),
    "sequential": ("read", "256k", 4, "bw_bytes"),
}
# Of what a server takes: its title, digits and unit.
COSTS = {
    "ready_s": ("ready, ms", 0, 1e3),
    "num_descriptors": ("descriptors", 0, 1.0),
}
MEMORY = {
    "idle_bytes": ("resident, idle", 1, 2**-20),
    "resident_bytes": ("resident", 1, 2**-20),
    "private_bytes": ("private", 1, 2**-20),
}
FIGURES = (*READS, *COSTS, *MEMORY)
MOST_WARMING_S = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0."""
    options = _parser().parse_args(arguments)
    for tool in ("fio", "qemu-nbd"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is missing; `make setup-system` installs it")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # qemu-nbd does not do so itself
    runs = []
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as directory:
            tops = {
                length: _made(kind, Path(directory) / str(length), length, options)
                for length in sorted({1, *options.lengths})
            }
            for run in _runs(kind, tops, options):
                print(run, file=sys.stderr)
                runs.append(run)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    write_report(options, SCHEMA, __doc__, runs=runs)
    for kind in options.kinds:
        _show([run for run in runs if run["kind"] == kind], kind, options.markdown)
    return 0


def _made(kind: str, directory: Path, length: int, options: argparse.Namespace) -> Path:
    print(f"making a chain of {length}, {kind}", file=sys.stderr)
    disk_bytes = options.mib << 20
    if kind == "over":
        return make_over(directory, length, disk_bytes, options.overwritten)
    return KINDS[kind](directory, length, disk_bytes)


def _runs(
    kind: str, tops: dict[int, Path], options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    for top in tops.values():
        with served("hatchway", top) as server:  # the page cache is warm from here on
            _fio(server.socket_path, "read", "1m", 4, min(options.mib / 100, MOST_WARMING_S))
    for repeat in range(options.repeats):
        for length in rotated(list(tops), repeat):
            for name in rotated(list(SERVERS), repeat):
                run = {"kind": kind, "length": length, "server": name, "repeat": repeat}
                yield {**run, **_measured(name, tops[length], options.seconds)}


def _measured(name: str, top: Path, seconds: float) -> dict[str, float]:
    with served(name, top) as server:
        pid = server.process.pid
        figures = {"ready_s": server.ready_s, "idle_bytes": _memory_bytes(pid)["Rss"]}
        for read, (order, size, depth, figure) in READS.items():
            warming_s = min(1.0, seconds)
            found = _fio(server.socket_path, order, size, depth, seconds, warming_s)
            figures[read] = found[figure]
        memory = _memory_bytes(pid)
        figures["resident_bytes"] = memory["Rss"]
        figures["private_bytes"] = memory["Private_Clean"] + memory["Private_Dirty"]
        figures["num_descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
        return figures


def _fio(
    path: Path, order: str, size: str, depth: int, seconds: float, warming_s: float = 0.0
) -> dict[str, float]:
    with tempfile.NamedTemporaryFile() as output:
        subprocess.run(
            [
                "fio",
                "--name=reads",
                "--ioengine=nbd",
                f"--uri=nbd+unix:///?socket={path}",
                f"--rw={order}",
                f"--bs={size}",
                f"--iodepth={depth}",
                f"--runtime={round(seconds * 1e3)}ms",
                f"--ramp_time={round(warming_s * 1e3)}ms",
                "--time_based",
                "--randrepeat=0",
                "--output-format=json",
                f"--output={output.name}",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        found: dict[str, float] = json.loads(Path(output.name).read_text())["jobs"][0]["read"]
    return found


def _memory_bytes(pid: int) -> dict[str, int]:
    """What a process holds of each kind of memory, by the kernel's names."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(kib) << 10 for name, kib in (re.findall(r"\w+", line)[:2] for line in lines)}


def _show(runs: list[dict[str, Any]], kind: str, markdown: bool) -> None:
    figures: dict[tuple[str, int, str], dict[int, float]] = {}
    lengths = sorted({run["length"] for run in runs})
    for server in SERVERS:
        for length in lengths:
            chosen = [
                {**run, "loader": server, "error": None}
                for run in runs
                if run["length"] == length and run["server"] == server
            ]
            for figure in FIGURES:
                figures[server, length, figure] = by_repeat(chosen, server, figure)
    reads = ["files", "ours", "stock", "over stock", "over one file"]
    for figure, title, digits, scale in (
        ("depth_1", "4 KiB reads a second, one in flight", 0, 1.0),
        ("depth_16", "4 KiB reads a second, 16 in flight", 0, 1.0),
        ("sequential", "MB/s in order", 0, 1e-6),
    ):
        rows = []
        for length in lengths:
            ours, stock = (figures[server, length, figure] for server in SERVERS)
            rows.append(
                [
                    str(length),
                    spread(ours.values()).text(digits, scale),
                    spread(stock.values()).text(digits, scale),
                    spread(paired_ratios(ours, stock).values()).text(1),
                    spread(paired_ratios(ours, figures["hatchway", 1, figure]).values()).text(),
                ]
            )
        _print(f"{kind}: {title}", reads, rows, markdown)
    for title, costs in (("what it takes", COSTS), ("memory, MiB", MEMORY)):
        header = [f"{name}: {who}" for name, _, _ in costs.values() for who in ("ours", "stock")]
        rows = [
            [
                str(length),
                *(
                    spread(figures[server, length, figure].values()).text(digits, scale)
                    for figure, (_, digits, scale) in costs.items()
                    for server in SERVERS
                ),
            ]
            for length in lengths
        ]
        _print(f"{kind}: {title}", ["files", *header], rows, markdown)


def _print(title: str, header: list[str], rows: list[list[str]], markdown: bool) -> None:
    if markdown:
        print(f"\n{title}\n\n{markdown_table(header, rows)}")
    else:
        print_table(Console(), title, header, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.disk.serving",
        description="Chains served over NBD, beside stock qemu-nbd.",
    )
    parser.add_argument(
        "--kinds", type=names(KINDS), default=("spread", "over"), help="default: spread,over"
    )
    parser.add_argument("--lengths", type=positive, nargs="+", default=list(LENGTHS))
    parser.add_argument(
        "--mib", type=positive, default=1024, help="of the disk (default: %(default)s)"
    )
    parser.add_argument(
        "--overwritten",
        type=positive,
        default=200,
        help="clusters that each file of *over* overwrites (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=positive_number,
        default=3.0,
        help="of each measurement (default: %(default)s)",
    )
    parser.add_argument("--repeats", type=positive, default=5, help="runs of each (default: 5)")
    add_output(parser, can_read=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
