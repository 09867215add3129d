"""Images of every kind that qemu-img makes hold the bytes that QEMU reads from them."""

from __future__ import annotations

import os
import random
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hatchway.disk import Chain
from tests.real import qemu

pytestmark = [pytest.mark.real, qemu.needs_qemu]

MIB = 1024 * 1024
KINDS: dict[str, dict[str, Any]] = {
    "version 2": {"compat": "0.10"},
    "version 3": {"compat": "1.1"},
    "clusters of 512 bytes": {"cluster_size": 512},
    "clusters of 4 KiB": {"cluster_size": 4096},
    "clusters of 2 MiB": {"cluster_size": "2M"},
    "subclusters": {"extended_l2": "on"},
    "subclusters of 512 bytes": {"extended_l2": "on", "cluster_size": "16k"},
    "subclusters of 64 KiB": {"extended_l2": "on", "cluster_size": "2M"},
    "refcounts of 1 bit": {"refcount_bits": 1},
    "refcounts of 64 bits": {"refcount_bits": 64},
    "lazy refcounts": {"lazy_refcounts": "on"},
    "zstd": {"compression_type": "zstd"},
    "preallocated metadata": {"preallocation": "metadata"},
    "preallocated": {"preallocation": "falloc"},
}
WRITES = (
    "write -P 1 0 4k",
    "write -P 2 100k 300k",
    "write -z 200k 20k",
    "write -P 3 1023k 3k",
    "write -P 4 3000k 1",
    "discard 120k 20k",
    "write -P 5 4095k 1k",
)


def assert_read_alike(path: Path, **options: Any) -> None:
    expected = qemu.contents(path)
    with Chain(path, **options) as chain:
        assert chain.size == len(expected)
        assert chain.read_at(0, chain.size) == expected
        place = random.Random(1)
        for _ in range(200):
            offset = place.randrange(chain.size)
            size = place.choice((1, 511, 512, 4096, 70_000))
            assert chain.read_at(offset, size) == expected[offset : offset + size]
        assert_mapped_alike(chain, path)


def assert_mapped_alike(chain: Chain, path: Path) -> None:
    """The same bytes are data, at the same places, in the same files."""
    depth_of = len(chain.images) - 1

    def pieces(start: int, length: int, step: int = 512) -> range:
        return range(start // step, (start + length) // step)

    ours: dict[int, tuple[Any, ...]] = {}
    for extent in chain.map():
        for piece in pieces(extent.start, extent.length):
            where = None
            if extent.kind == "data":
                assert extent.layer is not None
                assert extent.host_offset is not None
                where = depth_of - extent.layer, extent.host_offset + piece * 512 - extent.start
            ours[piece] = extent.kind in ("data", "compressed"), where
    theirs: dict[int, tuple[Any, ...]] = {}
    for one in qemu.extents(path):
        for piece in pieces(one["start"], one["length"]):
            where = None
            if "offset" in one and not (one["zero"] and one["data"] is False):
                where = one["depth"], one["offset"] + piece * 512 - one["start"]
            theirs[piece] = one["data"] or "offset" in one, where
    assert len(ours) == len(theirs)
    for piece, (is_data, where) in theirs.items():
        # A raw file's holes, and zeros with a place, are data to us and none to QEMU.
        if is_data and where is not None:
            assert ours[piece] == (True, where), piece * 512


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_each_kind(kind: str, tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", 10 * MIB, **KINDS[kind])
    qemu.io(path, WRITES)
    if "preallocation" not in KINDS[kind]:
        qemu.io(path, ["write -c -P 6 8M 2M", "write -c -P 7 6M 2M"])
    assert_read_alike(path)


# QEMU preallocates no overlays.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "preallocat" not in kind])
@pytest.mark.parametrize("base_kind", ["version 3", "clusters of 512 bytes", "subclusters"])
def test_an_overlay_of_each_kind_over_another(kind: str, base_kind: str, tmp_path: Path) -> None:
    base = qemu.create(tmp_path / "base.qcow2", 5 * MIB, **KINDS[base_kind])
    qemu.io(base, ["write -P 9 0 5M"])
    path = qemu.create(tmp_path / "top.qcow2", 6 * MIB, base, **KINDS[kind])
    qemu.io(path, WRITES)
    assert_read_alike(path)


@pytest.mark.parametrize("num_bytes", [1, 511, 512, 65_537, 3 * MIB - 100])
def test_a_raw_base_shorter_than_what_lies_above(num_bytes: int, tmp_path: Path) -> None:
    base = qemu.raw(tmp_path / "base.raw", random.Random(2).randbytes(num_bytes))
    middle = qemu.create(tmp_path / "middle.qcow2", 4 * MIB, base)
    qemu.io(middle, ["write -P 1 64k 100k"])
    path = qemu.create(tmp_path / "top.qcow2", 5 * MIB, middle, cluster_size=4096)
    qemu.io(path, ["write -P 2 1M 4k", "write -P 3 4M 64k"])
    assert_read_alike(path)


def test_a_file_in_the_middle_hides_what_lies_past_its_end(tmp_path: Path) -> None:
    base = qemu.create(tmp_path / "base.qcow2", 4 * MIB)
    qemu.io(base, ["write -P 1 0 4M"])
    middle = qemu.create(tmp_path / "middle.qcow2", MIB + 512 * 3, base)
    path = qemu.create(tmp_path / "top.qcow2", 4 * MIB, middle)
    qemu.io(path, ["write -P 2 3M 64k"])
    assert_read_alike(path)


@pytest.mark.parametrize("is_raw", ["on", "off"])
def test_an_external_data_file(is_raw: str, tmp_path: Path) -> None:
    options = {"data_file": tmp_path / "data.bin", "data_file_raw": is_raw}
    path = qemu.create(tmp_path / "one.qcow2", 4 * MIB, **options)
    qemu.io(path, ["write -P 1 0 64k", "write -P 2 1M 300k", "write -z 1100k 20k"])
    assert_read_alike(path)


def test_a_header_that_fills_most_of_its_cluster(tmp_path: Path) -> None:
    base = qemu.raw(tmp_path / "base.raw", b"base" * MIB)
    path = qemu.create(tmp_path / "one.qcow2", 4 * MIB)
    with path.open("r+b") as file:
        start = bytearray(file.read(65536))
        (header_bytes,) = struct.unpack_from(">I", start, 100)
        unknown = struct.pack(">II", 0x12345678, 20_000) + bytes(20_000)
        of_raw = struct.pack(">II", 0xE2792ACA, 3) + b"raw".ljust(8, b"\0")
        start[header_bytes:30_000] = (unknown + of_raw).ljust(30_000 - header_bytes, b"\0")
        name = base.name.encode()
        start[30_000 : 30_000 + len(name)] = name
        struct.pack_into(">QI", start, 8, 30_000, len(name))
        file.seek(0)
        file.write(start)
    assert_read_alike(path)
    with Chain(path) as chain:
        assert chain.read_at(0, 4) == b"base"


def test_an_internal_snapshot(tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", 4 * MIB)
    qemu.io(path, ["write -P 1 0 1M"])
    qemu.img("snapshot", "-c", "before", path)
    qemu.img("resize", "-q", path, 6 * MIB)
    qemu.io(path, ["write -P 2 512k 1M"])
    for name in ("before", "1"):
        with Chain(path, snapshot=name) as chain:
            assert chain.size == 4 * MIB
            # QEMU reads it in the size that the disk has now, and goes back to that of then.
            assert chain.read_at(0, 6 * MIB) == qemu.contents(path, "-l", "before")[: 4 * MIB]
    assert_read_alike(path)


def test_a_raw_image_of_its_own(tmp_path: Path) -> None:
    path = qemu.raw(tmp_path / "one.raw", os.urandom(100_000))
    with Chain(path) as chain:
        assert chain.read_at(0, 200_000) == path.read_bytes().ljust(chain.size, b"\0")


def test_a_long_chain_under_few_descriptors_read_by_threads(tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "0.qcow2", 8 * MIB)
    place = random.Random(3)
    for layer in range(1, 60):
        writes = [f"write -P {layer} {place.randrange(8192)}k 64k" for _ in range(3)]
        qemu.io(path, [write for write in writes if int(write.split()[3][:-1]) < 8100])
        path = qemu.create(tmp_path / f"{layer}.qcow2", None, path)
    expected = qemu.contents(path)
    for most in (None, 40, 1):
        with Chain(path, max_descriptors=most) as chain, ThreadPoolExecutor(4) as pool:
            assert len(chain.images) == 60
            starts = range(0, chain.size, 300_000)
            read = pool.map(lambda start: chain.read_at(start, 300_000), starts)
            assert b"".join(read) == expected
