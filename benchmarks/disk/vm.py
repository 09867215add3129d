"""RocksDB in a guest over a chain, ours beside stock QEMU: ``python -m benchmarks.disk.vm``.

RocksDB's db_bench makes a database, in order of its keys (16 bytes; values of 1000, in tables
without compression), which takes half of an ext4 that mke2fs makes, both on the host. Each cluster
of 64 KiB lies in one file of the chain, drawn at random, written by qemu-io; some file below that
one has other data there.

A guest (512 MiB of memory, one processor, QEMU's emulator without KVM) then boots with the chain
as its disk, read-only. db_bench reads random keys, one at a time, past the guest's page cache,
for some seconds. The disk is served by Hatchway over NBD, by stock qemu-nbd over NBD, or opened by
QEMU itself; *one file* is the same disk in one qcow2 file, opened by QEMU itself. A first guest
of each, which is not counted, runs e2fsck and reads every file of the disk; the page cache of the
host is warm from then on. They take turns within each repeat.

*First read* is from the start of the first process (the server, if there is one) until the guest
has mounted the file system and read a file. *over stock* and *over one file* are ratios of the same
repeat. A run counts only if every key was found and every block had its checksum.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.arguments import add_output, names, positive
from benchmarks.disk.chains import make_holding, run_qemu
from benchmarks.disk.guests import Guest, export, image
from benchmarks.disk.initramfs import missing, run_packaged
from benchmarks.disk.servers import SERVERS, served
from benchmarks.errors import BenchmarkError
from benchmarks.figures import by_repeat, paired_ratios, spread
from benchmarks.report import markdown_table, print_table, write_report
from benchmarks.suite import rotated

SCHEMA = "hatchway-guest-reads/1"
OURS, STOCK, ONE_FILE = "hatchway", "qemu", "one-file"
DISKS = {
    OURS: "Hatchway",
    STOCK: "stock QEMU",
    "qemu-nbd": "stock qemu-nbd",
    ONE_FILE: "stock QEMU, one file",
}
_VALUE_BYTES = 1000
# A key, its value and what the table says about them.
_ENTRY_BYTES = 1040
# What is kept of the tables; the indexes of the tables are held beside it.
_CACHE_BYTES = 1 << 20
_WRITE_BUFFER_BYTES = 8 << 20
_SAID = re.compile(
    r"(?P<disk>\d+) readrandom .* (?P<rate>[\d.]+) ops/sec .*"
    r"\((?P<found>\d+) of (?P<all>\d+) found\)"
)

MOUNT = "mount -t ext4 -o ro,noload /dev/vda /disk"
FSCK = "e2fsck -fn /dev/vda"
SUMS = "cd /disk/db; md5sum *; cd /"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0, or 1 if something is missing or a run went wrong."""
    options = _parser().parse_args(arguments)
    lacking = missing()
    if lacking:
        print(f"vm: {lacking}", file=sys.stderr)
        return 1
    # Ended by a signal or by Ctrl-C, servers and guests are ended, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # QEMU does not do so itself
    try:
        with tempfile.TemporaryDirectory() as directory:
            runs = list(_runs(Path(directory), options))
    except BenchmarkError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    write_report(options, SCHEMA, __doc__, runs=runs)
    _show(runs, options)
    return 0


def make_database(directory: Path, mib: int) -> Path:
    """Make an ext4 with a database that takes half of it; return the raw image."""
    files, base = directory / "files", directory / "base.raw"
    (files / "db").mkdir(parents=True)
    run_packaged(
        "bin/db_bench",
        f"--db={files / 'db'}",
        "--benchmarks=fillseq,flush",  # into tables: nothing is left in a log
        "--disable_wal=1",
        f"--num={num_keys(mib)}",
        f"--value_size={_VALUE_BYTES}",
        f"--write_buffer_size={_WRITE_BUFFER_BYTES}",
        "--compression_type=none",
    )
    run_packaged("sbin/mke2fs", "-q", "-t", "ext4", "-d", files, base, f"{mib}M")
    return base


def num_keys(mib: int) -> int:
    """How many keys the database has on a disk of so many MiB."""
    return (mib << 19) // _ENTRY_BYTES


def reading(mib: int, seconds: int) -> str:
    """The part of a script that reads random keys for so long, and says how it went."""
    return f"""
read before rest </sys/block/vda/stat
found=$(db_bench --db=/disk/db --use_existing_db --readonly --benchmarks=readrandom \\
    --num={num_keys(mib)} --value_size={_VALUE_BYTES} --duration={seconds} \\
    --use_direct_reads --cache_size={_CACHE_BYTES} 2>/tmp/errors) || {{ cat /tmp/errors; exit 1; }}
read after rest </sys/block/vda/stat
say read $((after - before)) $(echo "$found" | grep ^readrandom)
"""


def reads_per_s(said: str) -> float:
    """The rate of what the guest says that db_bench did.

    Raises:
        BenchmarkError: If a key was not found, or most did not come from the disk.
    """
    found = _SAID.fullmatch(said)
    if found is None or found["all"] != found["found"]:
        raise BenchmarkError(f"db_bench did not find each key that it looked for: {said!r}")
    if int(found["disk"]) < int(found["all"]) / 2:
        raise BenchmarkError(f"db_bench found most keys without a read of the disk: {said!r}")
    return float(found["rate"])


def _runs(directory: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    print(f"making a chain of {options.length}", file=sys.stderr)
    base = make_database(directory, options.mib)
    tops = dict.fromkeys(DISKS, make_holding(directory / "chain", options.length, base))
    tops[ONE_FILE] = directory / "one.qcow2"
    run_qemu("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(base), str(tops[ONE_FILE]))
    sums = {name: _checked(name, tops[name], directory) for name in options.disks}
    if len(set(sums.values())) > 1:
        raise BenchmarkError(f"guests read different files: {sums}")
    for repeat in range(options.repeats):
        for name in rotated(list(options.disks), repeat):
            run = {"loader": name, "repeat": repeat, "error": None}
            run.update(_measured(name, tops[name], directory, options))
            print(run, file=sys.stderr)
            yield run


def _checked(name: str, top: Path, directory: Path) -> str:
    """The checksums of all files of a disk whose file system is clean."""
    script = f"{FSCK}\n{MOUNT}\nsay checked\n{SUMS}"
    begun = time.perf_counter()
    with _attached(name, top) as disk, Guest(disk, script, directory) as guest:
        guest.hear("checked")
        guest.finish()
    print(f"{name}: checked in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    return "\n".join(guest.console[guest.console.index("@ checked") :])


def _measured(
    name: str, top: Path, directory: Path, options: argparse.Namespace
) -> dict[str, float]:
    script = f"{MOUNT}\ncat /disk/db/CURRENT\nsay mounted\n{reading(options.mib, options.seconds)}"
    begun = time.perf_counter()
    with _attached(name, top) as disk, Guest(disk, script, directory) as guest:
        guest.hear("mounted")
        first_read_s = time.perf_counter() - begun
        rate = reads_per_s(guest.hear("read"))
        guest.finish()
    return {"reads_per_s": rate, "first_read_s": first_read_s}


@contextlib.contextmanager
def _attached(name: str, top: Path) -> Iterator[dict[str, Any]]:
    """A chain as a disk for a guest that reads."""
    if name in SERVERS:
        with served(name, top) as server:
            yield export(server.socket_path)
    else:
        yield image(top)


def _show(runs: list[dict[str, Any]], options: argparse.Namespace) -> None:
    header = ["disk", "reads a second", "over stock", "over one file", "first read, s"]
    rates = {name: by_repeat(runs, name, "reads_per_s") for name in options.disks}
    rows = [
        [
            DISKS[name],
            spread(rates[name].values()).text(0),
            *(_ratio(rates, name, other) for other in (STOCK, ONE_FILE)),
            spread(by_repeat(runs, name, "first_read_s").values()).text(1),
        ]
        for name in options.disks
    ]
    title = f"db_bench readrandom in a guest, {options.mib} MiB in a chain of {options.length}"
    if options.markdown:
        print(f"{title}\n\n{markdown_table(header, rows)}")
    else:
        print_table(Console(), title, header, rows)


def _ratio(rates: dict[str, dict[int, float]], name: str, other: str) -> str:
    if other not in rates:
        return "-"
    return spread(paired_ratios(rates[name], rates[other]).values()).text()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.disk.vm",
        description="RocksDB in an emulated guest over a chain, ours beside stock QEMU.",
    )
    parser.add_argument(
        "--disks",
        type=names(DISKS),
        default=tuple(DISKS),
        help=f"some of {','.join(DISKS)} (default: all)",
    )
    parser.add_argument(
        "--length", type=positive, default=500, help="files of the chain (default: %(default)s)"
    )
    parser.add_argument(
        "--mib", type=positive, default=512, help="of the disk (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=positive,
        default=10,
        help="of each measurement (default: %(default)s)",
    )
    parser.add_argument("--repeats", type=positive, default=5, help="runs of each (default: 5)")
    add_output(parser, can_read=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
