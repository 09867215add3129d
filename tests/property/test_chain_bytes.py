"""Whatever QEMU's tools did to a chain, it holds the bytes that were written."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hatchway.disk import Chain, kernel
from hatchway.disk.leaves import LEAF_GRANULES, Leaf, merged
from tests.real import qemu

pytestmark = [pytest.mark.real, qemu.needs_qemu, pytest.mark.timeout(300)]

SECTOR = 512
SIZES = st.integers(1, 96).map(lambda count: count * 8 * 1024)
FORMATS = st.sampled_from(
    [
        {"cluster_size": 512},
        {"cluster_size": 4096},
        {"cluster_size": 65536},
        {"cluster_size": 16384, "extended_l2": "on"},
        {"cluster_size": 65536, "extended_l2": "on"},
        {"compat": "0.10"},
        {"compression_type": "zstd", "cluster_size": 8192},
    ]
)
PLACES = st.tuples(st.integers(0, 1600), st.integers(1, 200))
OPERATIONS = st.one_of(
    st.tuples(st.just("write"), PLACES, st.integers(1, 255)),
    st.tuples(st.just("zero"), PLACES, st.just(0)),
    st.tuples(st.just("discard"), PLACES, st.just(0)),
    st.tuples(st.just("compressed"), PLACES, st.integers(1, 255)),
    st.tuples(st.just("overlay"), st.none() | SIZES, FORMATS),
    st.tuples(st.just("commit"), st.none(), st.none()),
    st.tuples(st.just("resize"), SIZES, st.none()),
    st.tuples(st.just("look"), st.none(), st.none()),
)


class Disk:
    """The chain, and the bytes that it must hold: its layers as QEMU sees them."""

    def __init__(self, directory: Path, num_bytes: int, options: dict[str, Any]) -> None:
        self.directory = directory
        self.num_made = 1
        self.chain = [qemu.create(directory / "0.qcow2", num_bytes, **options)]
        self.options = [options]
        self.content = bytearray(num_bytes)

    @property
    def top(self) -> Path:
        return self.chain[-1]

    def write(self, at: int, count: int, value: int, command: str) -> None:
        start = at * SECTOR
        length = min(count * SECTOR, len(self.content) - start)
        if length > 0:
            qemu.io(self.top, [f"{command} {start} {length}"])
            self.content[start : start + length] = bytes([value]) * length

    def compress(self, at: int, value: int) -> None:
        """QEMU compresses whole clusters, of nothing that was written before."""
        options = self.options[-1]
        size = options.get("cluster_size", 65536)
        start = at * SECTOR // size * size
        if start + size > len(self.content) or self._is_written(start, size):
            return
        qemu.io(self.top, [f"write -c -P {value} {start} {size}"])
        self.content[start : start + size] = bytes([value]) * size

    def _is_written(self, start: int, size: int) -> bool:
        for one in qemu.extents(self.top):
            inside = one["start"] < start + size and start < one["start"] + one["length"]
            if inside and one["depth"] == 0 and (one["data"] or "offset" in one or one["present"]):
                return True
        return False

    def overlay(self, num_bytes: int | None, options: dict[str, Any]) -> None:
        path = self.directory / f"{self.num_made}.qcow2"
        self.num_made += 1
        qemu.create(path, num_bytes, self.top, **options)
        self.chain.append(path)
        self.options.append(options)
        if num_bytes is not None:
            self._fit(num_bytes)

    def commit(self) -> None:
        if len(self.chain) > 1:
            # The base keeps what it has beyond the end of what is committed.
            qemu.img("commit", "-q", "-d", self.top)
            base = self.chain[-2]
            with_base = qemu.contents(base)
            assert with_base[: len(self.content)] == self.content[: len(with_base)]
            self.content = bytearray(with_base)
            self.chain.pop().unlink()
            self.options.pop()

    def resize(self, num_bytes: int) -> None:
        # QEMU shows again what lay past the end in the last cluster, once the disk grows.
        cluster = self.options[-1].get("cluster_size", 65536)
        num_bytes = -(-num_bytes // cluster) * cluster
        if "compat" in self.options[-1] and num_bytes > len(self.content):
            return  # version 2 has no zero clusters to hide what lies below
        qemu.img("resize", "-q", "--shrink", "-f", "qcow2", self.top, num_bytes)
        self._fit(num_bytes)

    def look(self) -> None:
        with Chain(self.top, max_descriptors=2) as chain:
            assert chain.read_at(0, chain.size) == self.content
        with Chain(self.top) as chain:
            assert chain.read_at(0, chain.size) == self.content
            merged_natively_as_in_python(chain)
        with mock.patch.object(kernel, "_MODULE", None), Chain(self.top) as chain:
            assert chain.read_at(0, chain.size) == self.content

    def _fit(self, num_bytes: int) -> None:
        del self.content[num_bytes:]
        self.content.extend(bytes(num_bytes - len(self.content)))


def merged_natively_as_in_python(chain: Chain) -> None:
    """Native code and its twin say the same of every leaf."""
    images, granule = chain.images, chain.granule_bytes
    leaves = kernel.KernelLeaves(images, granule, 0, make=lambda rank: Leaf(*[memoryview(b"")] * 2))
    for rank in range(-(-chain.size // (LEAF_GRANULES * granule))):
        found = leaves.kernel.merged(rank, 0, len(images))
        wanted = merged(images, rank * LEAF_GRANULES * granule, granule)
        assert found == (bytes(wanted.words), bytes(wanted.layers))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=40)
@given(num_bytes=SIZES, options=FORMATS, operations=st.lists(OPERATIONS, min_size=3, max_size=25))
def test_a_chain_holds_what_was_written(
    num_bytes: int, options: dict[str, Any], operations: list[tuple[str, Any, Any]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        disk = Disk(Path(directory), num_bytes, options)
        for name, first, second in operations:
            if name == "write":
                disk.write(*first, second, f"write -P {second}")
            elif name == "zero":
                disk.write(*first, 0, "write -z")
            elif name == "discard":
                disk.write(*first, 0, "write -z -u")
            elif name == "compressed":
                disk.compress(first[0], second)
            elif name == "overlay":
                disk.overlay(first, second)
            elif name == "commit":
                disk.commit()
            elif name == "resize":
                disk.resize(first)
            else:
                disk.look()
        disk.look()
        assert qemu.contents(disk.top) == disk.content
