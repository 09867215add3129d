"""Whatever is done to keep a chain in order, its disk holds the bytes that were written."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hatchway.disk import Chain, commit, kernel, merge, rebase, resize, snapshot
from tests.property.test_chain_bytes import FORMATS, PLACES, SECTOR, SIZES
from tests.real import qemu

pytestmark = [pytest.mark.real, qemu.needs_qemu, pytest.mark.timeout(300)]

KIB = 1024
LAYERS = st.tuples(st.integers(0, 100), st.integers(0, 100))
NEW = st.sampled_from(
    [
        {},
        {"cluster_size": 512},
        {"cluster_size": 4096},
        {"cluster_size": 65536, "extended_l2": True},
    ]
)
WRITES = st.one_of(
    st.tuples(st.just("write"), PLACES, st.integers(1, 255)),
    st.tuples(st.just("zero"), PLACES, st.just(0)),
    st.tuples(st.just("discard"), PLACES, st.just(0)),
    st.tuples(
        st.just("theirs"), PLACES, st.sampled_from(["write -P 7", "write -z", "write -z -u"])
    ),
    st.tuples(st.just("compressed"), PLACES, st.integers(1, 255)),
)
UPKEEP = st.one_of(
    st.tuples(st.just("snapshot"), NEW, st.integers(1, 12)),
    st.tuples(st.just("live snapshot"), NEW, st.integers(1, 6)),
    st.tuples(st.just("their overlay"), st.none() | SIZES, FORMATS),
    st.tuples(st.just("commit"), st.none() | LAYERS, st.booleans()),
    st.tuples(st.just("their commit"), st.none(), st.none()),
    st.tuples(st.just("rebase"), st.none() | LAYERS, st.none()),
    st.tuples(st.just("their rebase"), LAYERS, st.none()),
    st.tuples(st.just("merge"), LAYERS, st.booleans()),
    st.tuples(st.just("resize"), SIZES, st.none()),
    st.tuples(st.just("look"), st.none(), st.none()),
)
OPERATIONS = st.lists(WRITES | UPKEEP, min_size=6, max_size=20)


class Disk:
    """A chain, and the bytes that its disk must hold."""

    def __init__(self, directory: Path, num_bytes: int, options: dict[str, Any] | None) -> None:
        self.directory = directory
        self.num_made = 1
        self.content = bytearray(num_bytes)
        if options is None:
            self.files = [qemu.raw(directory / "0.raw", bytes(num_bytes))]
            self.snapshot({}, 1)
        else:
            self.files = [qemu.create(directory / "0.qcow2", num_bytes, **options)]

    @property
    def top(self) -> Path:
        return self.files[-1]

    def do(self, name: str, first: Any, second: Any) -> None:
        if name in ("write", "zero", "discard"):
            self.write(name, *first, second)
        elif name == "theirs":
            self.write_theirs(*first, second)
        elif name == "compressed":
            self.compress(first[0], second)
        elif name == "snapshot":
            self.snapshot(first, second)
        elif name == "live snapshot":
            self.snapshot_live(first, second)
        elif name == "their overlay":
            self.overlay(first, second)
        elif name == "commit":
            self.commit(first, keep=second)
        elif name == "their commit":
            self.commit_theirs()
        elif name == "rebase":
            self.rebase(first)
        elif name == "their rebase":
            self.rebase_theirs(first)
        elif name == "merge":
            self.merge(first, remove=second)
        elif name == "resize":
            self.resize(first)
        else:
            self.look()

    def write(self, name: str, at: int, count: int, value: int) -> None:
        start, end = self._place(at, count)
        with Chain(self.top, writable=True) as chain:
            if name == "write":
                chain.write_at(start, bytes([value]) * (end - start))
            elif name == "zero":
                chain.write_zeroes_at(start, end - start)
            else:
                chain.discard_at(start, end - start)
                self.content[start:end] = chain.read_at(start, end - start)
                return
        self.content[start:end] = bytes([value]) * (end - start)

    def write_theirs(self, at: int, count: int, command: str) -> None:
        start, end = self._place(at, count)
        if start < end:
            qemu.io(self.top, [f"{command} {start} {end - start}"])
            self.content[start:end] = bytes([7 if "-P" in command else 0]) * (end - start)

    def compress(self, at: int, value: int) -> None:
        with Chain(self.top) as chain:
            header = chain.images[-1].header
            assert header is not None
            size = header.cluster_size
            start = at * SECTOR // size * size
            there = (
                {e.layer for e in chain.map(start, start + size)}
                if self._fits(start, size)
                else {0}
            )
            if not self._fits(start, size) or len(chain.images) - 1 in there:
                return
        qemu.io(self.top, [f"write -c -P {value} {start} {size}"])
        self.content[start : start + size] = bytes([value]) * size

    def snapshot(self, options: dict[str, Any], count: int) -> None:
        for number in range(min(count, 40 - len(self.files))):
            done = snapshot(self.top, self._new(), **options)
            assert done.size == len(self.content)
            self.files.append(done.path)
            self.write("write", 37 * self.num_made % 1600, 3 + number, self.num_made % 255 + 1)

    def snapshot_live(self, options: dict[str, Any], count: int) -> None:
        """Several by one chain, which writes and reads between them."""
        if self.top.suffix == ".raw":
            return
        with Chain(self.top, writable=True) as chain:
            for number in range(min(count, 40 - len(self.files))):
                granule = options.get("cluster_size", chain.granule_bytes)
                if granule // (32 if options.get("extended_l2") else 1) < chain.granule_bytes:
                    with pytest.raises(ValueError, match="pieces"):
                        chain.snapshot(self._new(), **options)
                else:
                    self.files.append(chain.snapshot(self._new(), **options).path)
                start, end = self._place(53 * self.num_made % 1600, 3 + number)
                data = bytes([self.num_made % 255 + 1]) * (end - start)
                chain.write_at(start, data)
                self.content[start:end] = data
                assert chain.read_at(0, chain.size) == self.content

    def overlay(self, num_bytes: int | None, options: dict[str, Any]) -> None:
        self.files.append(qemu.create(self._new(), num_bytes, self.top, **options))
        if num_bytes is not None:
            self._fit(num_bytes)

    def commit(self, layers: tuple[int, int] | None, *, keep: bool) -> None:
        if len(self.files) > 1:
            into = None if layers is None else layers[0] % (len(self.files) - 1)
            done = commit(self.top, into=into, keep=keep)
            assert done.is_emptied == (not keep and done.into == self.files[-2])
            if done.is_emptied:
                with Chain(self.top) as chain:
                    top = len(chain.images) - 1
                    assert all(extent.layer != top for extent in chain.map())

    def commit_theirs(self) -> None:
        # Where its base grows, QEMU shows again what lay past its end in its last cluster.
        if len(self.files) > 1 and self._size(self.files[-2]) >= len(self.content):
            qemu.img("commit", "-q", self.top)

    def rebase(self, layers: tuple[int, int] | None) -> None:
        if layers is None:
            rebase(self.top, None)
            self.files = [self.top]
        elif len(self.files) > 1:
            number = layers[0] % (len(self.files) - 1)
            rebase(self.top, self.files[number])
            del self.files[number + 1 : -1]

    def rebase_theirs(self, layers: tuple[int, int]) -> None:
        if len(self.files) > 1:
            number = layers[0] % (len(self.files) - 1)
            base = self.files[number]
            qemu.img("rebase", "-q", "-b", base.name, "-F", qemu.format_of(base), self.top)
            del self.files[number + 1 : -1]

    def merge(self, layers: tuple[int, int], *, remove: bool) -> None:
        low, high = sorted(number % len(self.files) for number in layers)
        if low < high:
            before = self.files[low:high]
            done = merge(self.top, low, self.files[high], with_active=True, remove=remove)
            assert done.unused == before
            assert done.removed == (before if remove else [])
            assert [path.exists() for path in before] == [not remove] * len(before)
            del self.files[low:high]

    def resize(self, num_bytes: int) -> None:
        assert resize(self.top, num_bytes, shrink=True) == len(self.content)
        self._fit(num_bytes)

    def look(self) -> None:
        with Chain(self.top) as chain:
            assert [image.path for image in chain.images] == self.files
            assert chain.read_at(0, chain.size) == self.content
        assert qemu.contents(self.top) == self.content
        for path in self.files:
            if path.suffix == ".qcow2":
                qemu.check(path)
        assert not list(self.directory.glob(".*"))

    def _place(self, at: int, count: int) -> tuple[int, int]:
        size = len(self.content)
        return min(at * SECTOR, size), min((at + count) * SECTOR, size)

    def _fits(self, start: int, size: int) -> bool:
        return start + size <= len(self.content)

    def _size(self, path: Path) -> int:
        with Chain(path) as chain:
            return chain.size

    def _new(self) -> Path:
        path = self.directory / f"{self.num_made}.qcow2"
        self.num_made += 1
        return path

    def _fit(self, num_bytes: int) -> None:
        del self.content[num_bytes:]
        self.content.extend(bytes(num_bytes - len(self.content)))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=25)
@given(num_bytes=SIZES, options=st.none() | FORMATS, operations=OPERATIONS)
def test_upkeep_changes_no_byte_of_the_disk(
    num_bytes: int, options: dict[str, Any] | None, operations: list[tuple[str, Any, Any]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        disk = Disk(Path(directory), num_bytes, options)
        for operation in operations:
            disk.do(*operation)
        disk.look()


@pytest.mark.parametrize("name", ["commit", "rebase", "merge"])
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=20)
@given(
    options=st.none() | FORMATS,
    layers=st.lists(
        st.tuples(st.integers(1, 20), FORMATS, st.integers(0, 159), st.integers(1, 159)),
        min_size=2,
        max_size=5,
    ),
    places=LAYERS,
    is_native=st.booleans(),
)
def test_layers_of_any_sizes_are_kept_up(
    name: str,
    options: dict[str, Any] | None,
    layers: list[tuple[int, dict[str, Any], int, int]],
    places: tuple[int, int],
    is_native: bool,
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        disk = Disk(Path(directory), 160 * KIB, options)
        disk.write("write", 0, 320, 255)
        for number, (size, made_with, start, length) in enumerate(layers, 1):
            disk.overlay(size * 8 * KIB, made_with)
            disk.write("write", 2 * start, length, number)
        with mock.patch.object(kernel, "_MODULE", kernel._MODULE if is_native else None):
            disk.do(name, places, False)
        disk.look()


def test_forty_layers_become_few(tmp_path: Path) -> None:
    disk = Disk(tmp_path, 800 * KIB, {"cluster_size": 4096})
    for options in ({}, {"cluster_size": 512}, {"extended_l2": True, "cluster_size": 16384}, {}):
        disk.snapshot(options, 12)
    assert len(disk.files) == 40
    for operation in (
        ("look", None, None),
        ("merge", (5, 20), True),
        ("merge", (0, 9), False),
        ("rebase", (3, 0), None),
        ("commit", (1, 0), False),
        ("merge", (0, 4), True),
    ):
        disk.do(*operation)
        disk.look()
    assert len(disk.files) == 1
