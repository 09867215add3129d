"""``hatchway disk bench``: how fast a chain is read on this machine."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from hatchway.base.units import format_bytes
from hatchway.disk.chain import Chain

_READ_BYTES = 4096
_PIECE_BYTES = 1 << 20
_AT_ONCE = 64


def bench(args: argparse.Namespace, opened: Callable[[], Chain]) -> None:
    """Open a chain, read from it for some seconds, and say how fast that was."""
    begun = time.perf_counter()
    with opened() as chain:
        open_s = time.perf_counter() - begun
        if chain.size < _READ_BYTES:
            raise ValueError(f"the disk has {chain.size} bytes; at least {_READ_BYTES} are read")
        place = random.Random(0)
        last = (chain.size - _READ_BYTES) // _READ_BYTES
        random_reads = _rate(
            lambda: chain.read_at(place.randrange(last + 1) * _READ_BYTES, _READ_BYTES),
            args.seconds,
        )
        offset = 0

        def read_next() -> None:
            nonlocal offset
            chain.read_at(offset, _PIECE_BYTES)
            offset = 0 if offset + _PIECE_BYTES >= chain.size else offset + _PIECE_BYTES

        pieces = _rate(read_next, args.seconds)
        said: dict[str, Any] = {
            "files": len(chain.images),
            "indexed_files": chain.num_indexed,
            "size_bytes": chain.size,
            "open_s": open_s,
            "random_reads_per_s": random_reads,
            "sequential_bytes_per_s": pieces * min(_PIECE_BYTES, chain.size),
            "cached_bytes": chain.cached_bytes,
        }
    if args.json:
        sys.stdout.write(json.dumps(said, indent=1) + "\n")
        return
    sys.stdout.write(
        f"{said['files']} files, {said['indexed_files']} of them by an index; opened in "
        f"{open_s * 1e3:.1f} ms\n"
        f"{random_reads:,.0f} reads of 4 KiB a second, at random\n"
        f"{format_bytes(int(said['sequential_bytes_per_s']))}/s in order\n"
        f"{format_bytes(said['cached_bytes'])} kept of the tables\n"
    )


def _rate(read: Callable[[], object], seconds: float) -> float:
    """How often a second something can be done."""
    count, begun = 0, time.perf_counter()
    while (taken := time.perf_counter() - begun) < seconds:
        for _ in range(_AT_ONCE):
            read()
        count += _AT_ONCE
    return count / taken
