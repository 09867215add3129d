"""A damaged file is not damaged further: nothing is written over tables that are known."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hatchway.disk import Chain, CorruptImageError
from hatchway.disk.active import create
from tests.real import qemu
from tests.real.layers import writing

pytestmark = [pytest.mark.real, qemu.needs_qemu]

MIB = 1 << 20
SIZE = 4096
OFFSET = (1 << 56) - 512
KINDS = [
    "refcount table",
    "refcount block",
    "L1 table",
    "L2 table",
    "snapshot table",
    "L1 table of a snapshot",
    "directory of bitmaps",
]


class Damaged:
    """A file with tables of all kinds, two of them of some, and what is wrong with it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "one.qcow2"
        # 512 refcounts a block, 512 guest clusters an L2 table.
        qemu.create(self.path, 8 * MIB, cluster_size=SIZE, refcount_bits=64)
        qemu.io(self.path, ["write -P 1 0 4k", "write -P 1 2M 2M"])
        for name in ("one", "two"):
            qemu.img("snapshot", "-c", name * 30, self.path)
        qemu.img("bitmap", "--add", "--disable", self.path, "bits")
        with Chain(self.path) as chain:
            image = chain.images[-1]
            assert image.header is not None
            assert image.header.bitmaps is not None
            self.header = image.header
            self.places = {
                "refcount table": image.header.refcount_table_offset,
                "L1 table": image.header.l1_offset,
                "snapshot table": image.header.snapshots_offset,
                "L1 table of a snapshot": image.snapshots()[1].l1_offset,
                "directory of bitmaps": image.header.bitmaps[2],
            }
        # The second of each, so that none is known only for what is written.
        self.places["refcount block"] = self.word(self.places["refcount table"] + 8)
        self.places["L2 table"] = self.word(self.places["L1 table"] + 8) & OFFSET

    def word(self, at: int, value: int | None = None) -> int:
        with self.path.open("r+b") as file:
            file.seek(at)
            if value is not None:
                file.write(struct.pack(">Q", value))
                return value
            return int.from_bytes(file.read(8), "big")

    def free(self, cluster: int) -> None:
        """Have the refcounts say that nothing is in a cluster."""
        block = self.word(self.header.refcount_table_offset + cluster // 512 * 8)
        self.word(block + cluster % 512 * 8, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_tables_that_refcounts_call_free_are_not_overwritten(kind: str, tmp_path: Path) -> None:
    damaged = Damaged(tmp_path)
    place = damaged.places[kind]
    damaged.free(place // SIZE)
    before = damaged.path.read_bytes()[place : place + SIZE]
    with (
        writing(damaged.path) as layer,
        pytest.raises(CorruptImageError, match=f"nothing is in .* its {kind} lies"),
    ):
        layer.write(4 * MIB, b"\1" * SIZE)
    assert damaged.path.read_bytes()[place : place + SIZE] == before


@pytest.mark.parametrize("kind", KINDS)
def test_tables_that_an_entry_calls_data_are_not_overwritten(kind: str, tmp_path: Path) -> None:
    damaged = Damaged(tmp_path)
    place = damaged.places[kind]
    l2 = damaged.word(damaged.places["L1 table"]) & OFFSET
    damaged.word(damaged.places["L1 table"], 1 << 63 | l2)
    damaged.word(l2, 1 << 63 | place)
    before = damaged.path.read_bytes()[place : place + SIZE]
    with (
        writing(damaged.path) as layer,
        pytest.raises(CorruptImageError, match=f"data is in .* its {kind} lies"),
    ):
        layer.write(512, b"\2")
    assert damaged.path.read_bytes()[place : place + SIZE] == before


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "L2 table"])
def test_tables_that_another_table_lies_over_are_not_changed(kind: str, tmp_path: Path) -> None:
    damaged = Damaged(tmp_path)
    place = damaged.places[kind]
    damaged.word(damaged.places["L1 table"] + 16, 1 << 63 | place)
    before = damaged.path.read_bytes()[place : place + SIZE]
    with (
        writing(damaged.path) as layer,
        pytest.raises(CorruptImageError, match=f"its L2 table is in .* its {kind} lies"),
    ):
        layer.write_zeroes(5 * MIB, SIZE)
    assert damaged.path.read_bytes()[place : place + SIZE] == before


def test_data_in_place_of_a_table_is_not_written_by_native_code_either(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, 8 * MIB, cluster_size=SIZE)
    qemu.io(path, ["write -P 1 0 4k", "write -P 1 4M 8k"])
    with path.open("r+b") as file:
        file.seek(3 * SIZE + 16)
        l2 = int.from_bytes(file.read(8), "big") & OFFSET
        file.seek(l2 + 8)
        file.write(struct.pack(">Q", 1 << 63 | 2 * SIZE))
        file.seek(2 * SIZE)
        before = file.read(SIZE)
    with Chain(path, writable=True) as chain:
        chain.write_at(0, b"\2" * 512)
        chain.write_at(512, b"\3" * 512)
        assert chain.read_at(4 * MIB + SIZE, SIZE) == before  # now known where it lies
        with pytest.raises(CorruptImageError, match="where its refcount block lies"):
            chain.write_at(4 * MIB + SIZE, b"\4" * 512)
        chain.write_at(4 * MIB, b"\5" * 512)
        assert chain.read_at(0, 1024) == b"\2" * 512 + b"\3" * 512
    assert path.read_bytes()[2 * SIZE : 3 * SIZE] == before


def test_where_a_table_lay_data_may_lie(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, 16 * MIB, cluster_size=SIZE)
    with writing(path) as layer:
        for rank in range(8):
            layer.write(rank * 2 * MIB, b"\1" * SIZE)
        num_bytes = path.stat().st_size
        layer.resize(2 * MIB)
        layer.write(SIZE, b"\2" * 14 * SIZE)
        assert path.stat().st_size == num_bytes
    qemu.check(path)
