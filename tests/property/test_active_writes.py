"""Whatever is written to an active layer, by us and by QEMU in turn, is what it holds."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hatchway.disk import Chain, UnsupportedImageError
from hatchway.disk.active import ActiveLayer
from tests.real import qemu
from tests.real.layers import seen, writing

pytestmark = [pytest.mark.real, qemu.needs_qemu, pytest.mark.timeout(300)]

SIZES = st.integers(1, 700).map(lambda count: count * 1024)
KINDS: list[dict[str, Any]] = [
    {"cluster_size": 512},
    {"cluster_size": 512, "refcount_bits": 64},
    {"cluster_size": 4096, "refcount_bits": 8},
    {"cluster_size": 65536},
    {"cluster_size": 16384, "extended_l2": "on"},
    {"cluster_size": 16384, "extended_l2": "on", "compression_type": "zstd"},
    {"cluster_size": 65536, "extended_l2": "on"},
    {"cluster_size": 65536, "extended_l2": "on", "refcount_bits": 4},
    {"compat": "0.10", "cluster_size": 2048},
    {"cluster_size": 1024, "lazy_refcounts": "on"},
    {"cluster_size": 8192, "compression_type": "zstd", "refcount_bits": 2},
    {"cluster_size": 4096, "refcount_bits": 1},
    {"cluster_size": 4096, "preallocation": "metadata"},
    {"cluster_size": 4096, "data_file": "data.bin"},
    {"cluster_size": 4096, "data_file": "data.bin", "data_file_raw": "on"},
]
# Bytes, and whole sectors more often.
OFFSETS = st.integers(0, 1400).map(lambda at: at * 512) | st.integers(0, 700 * 1024)
PLACES = st.tuples(OFFSETS, st.integers(1, 3000) | st.integers(1, 300).map(lambda n: n * 512))
VALUES = st.integers(1, 255)
OURS = st.one_of(
    st.tuples(st.just("write"), PLACES, VALUES),
    st.tuples(st.just("write"), PLACES, VALUES),
    st.tuples(st.just("zero"), PLACES, st.booleans()),
    st.tuples(st.just("discard"), PLACES, st.none()),
    st.tuples(st.just("resize"), SIZES, st.none()),
    st.tuples(st.just("flush"), st.none(), st.none()),
    st.tuples(st.just("see"), st.none(), st.none()),
)
THEIRS = st.one_of(
    st.tuples(st.just("write"), PLACES, VALUES),
    st.tuples(st.just("compressed"), OFFSETS, VALUES),
    st.tuples(st.just("zero"), PLACES, st.booleans()),
    st.tuples(st.just("snapshot"), st.none(), st.none()),
    st.tuples(st.just("forget"), st.none(), st.none()),
)
TURNS = st.tuples(st.lists(THEIRS, max_size=2), st.lists(OURS, min_size=1, max_size=10))


class Disk:
    """One file, and the bytes that it must hold now and in its snapshots."""

    def __init__(self, directory: Path, size: int, kind: dict[str, Any], below: int) -> None:
        self.path = directory / "top.qcow2"
        self.kind = dict(kind)
        self.content = bytearray(size)
        base = None
        if below and not {"preallocation", "data_file_raw"} & set(kind):
            base = qemu.raw(directory / "base.raw", random.Random(below).randbytes(below))
            self.content[: min(size, below)] = base.read_bytes()[:size]
        self.has_below = base is not None
        if "data_file" in kind:
            kind = {**kind, "data_file": directory / kind["data_file"]}
        qemu.create(self.path, size, base, **kind)
        self.cluster_size: int = kind["cluster_size"]
        self.snapshots: list[tuple[str, bytes]] = []

    def fill(self, at: int, count: int, value: int) -> tuple[int, int]:
        start = min(at, len(self.content))
        end = min(start + count, len(self.content))
        self.content[start:end] = bytes([value]) * (end - start)
        return start, end - start

    def change(self, layer: ActiveLayer, name: str, first: Any, second: Any) -> None:
        if name == "write":
            start, num_bytes = self.fill(*first, second)
            layer.write(start, bytes([second]) * num_bytes)
        elif name == "zero":
            layer.write_zeroes(*self.fill(*first, 0), may_unmap=second)
        elif name == "discard":
            self.discard(layer, *first)
        elif name == "resize":
            self.resize(layer, first)
        elif name == "flush":
            layer.flush()
        else:
            assert seen(layer, self.path) == self.content

    def resize(self, layer: ActiveLayer, size: int) -> None:
        if self.snapshots and "compat" in self.kind:
            with pytest.raises(UnsupportedImageError, match="snapshots"):
                layer.resize(size)
            return
        layer.resize(size)
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))

    def discard(self, layer: ActiveLayer, at: int, count: int) -> None:
        start = min(at, len(self.content))
        end = min(start + count, len(self.content))
        layer.discard(start, end - start)
        size = self.cluster_size
        first = -(-start // size) * size
        last = end if end == len(self.content) else end - end % size
        if first < last and not ("compat" in self.kind and self.has_below):
            self.content[first:last] = bytes(last - first)

    def be_changed(self, name: str, first: Any, second: Any) -> None:
        """By QEMU."""
        if name == "write":
            start, num_bytes = self.fill(*first, second)
            if num_bytes:
                qemu.io(self.path, [f"write -P {second} {start} {num_bytes}"])
        elif name == "zero":
            start, num_bytes = self.fill(*first, 0)
            if num_bytes:
                qemu.io(self.path, [f"write -z {'-u' if second else ''} {start} {num_bytes}"])
        elif name == "compressed":
            self.compress(first, second)
        elif name == "snapshot":
            self.take_snapshot()
        elif self.snapshots:
            qemu.img("snapshot", "-d", self.snapshots.pop()[0], self.path)

    def take_snapshot(self) -> None:
        if "data_file" in self.kind or len(self.snapshots) == 8:
            return
        if self.kind.get("refcount_bits") in (1, 2):
            return  # too few for a cluster that snapshots share
        name = f"s{len(self.snapshots)}"
        qemu.img("snapshot", "-c", name, self.path)
        self.snapshots.append((name, bytes(self.content)))

    def compress(self, at: int, value: int) -> None:
        """QEMU compresses whole clusters, of nothing that was written before."""
        size = self.cluster_size
        start = at // size * size
        if "data_file" in self.kind or start + size > len(self.content):
            return
        for one in qemu.extents(self.path):
            inside = one["start"] < start + size and start < one["start"] + one["length"]
            if inside and one["depth"] == 0 and (one["data"] or "offset" in one or one["present"]):
                return
        qemu.io(self.path, [f"write -c -P {value} {start} {size}"])
        self.content[start : start + size] = bytes([value]) * size

    def look(self) -> None:
        qemu.check(self.path)
        with Chain(self.path) as chain:
            assert chain.size == len(self.content)
            assert chain.read_at(0, chain.size) == self.content
        assert qemu.contents(self.path) == self.content
        for name, content in self.snapshots:
            with Chain(self.path, snapshot=name) as chain:
                assert chain.read_at(0, chain.size) == content
        if "data_file_raw" in self.kind:
            raw = (self.path.parent / "data.bin").read_bytes()
            assert raw[: len(self.content)].ljust(len(self.content), b"\0") == self.content


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(KINDS),
    size=SIZES,
    below=st.just(0) | st.integers(1, 700 * 1024),
    turns=st.lists(TURNS, min_size=1, max_size=4),
)
def test_a_layer_holds_what_was_written(
    kind: dict[str, Any], size: int, below: int, turns: list[Any]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        disk = Disk(Path(directory), size, kind, below)
        for theirs, ours in turns:
            for operation in theirs:
                disk.be_changed(*operation)
            with writing(disk.path, cache_bytes=0) as layer:
                for operation in ours:
                    disk.change(layer, *operation)
            disk.look()
