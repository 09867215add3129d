"""Bitmaps that track writes say of our writes what they say of QEMU's."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hatchway.disk import Chain, Server, UnsupportedImageError, check, commit, rebase
from tests.real import bitmaps, nbd, qemu
from tests.real.bitmaps import AUTOCLEAR_AT, add
from tests.real.layers import writing

pytestmark = [pytest.mark.real, qemu.needs_qemu, nbd.needs_libnbd, pytest.mark.timeout(300)]

KIB, MIB = 1 << 10, 1 << 20
SIZE = 5 * MIB + 1536
KINDS: list[dict[str, Any]] = [
    {"cluster_size": 4096},
    {"cluster_size": 65536, "extended_l2": "on"},
    {"cluster_size": 1024, "refcount_bits": 1},
    {"cluster_size": 4096, "data_file": "data.bin", "data_file_raw": "on"},
]
# At the first a bitmap has several clusters.
NAMES = {"fine": 512, "middle": 4096, "coarse": 262_144}


def image(path: Path, **kind: Any) -> Path:
    """An image with bitmaps, of which some track writes; other than zeros are its first 3 MiB."""
    if "data_file" in kind:
        kind["data_file"] = path.with_suffix(".bin")
    qemu.create(path, SIZE, **kind)
    qemu.io(path, [f"write -P 5 0 {3 * MIB}"])
    for name, granularity in NAMES.items():
        add(path, name, granularity)
    qemu.io(path, ["write -P 6 1M 100k"])
    add(path, "off", 4096, "--disable")
    qemu.img("bitmap", "--merge", "middle", path, "off")
    return path


def drawn(place: random.Random, num: int, size: int) -> list[tuple[str, int, int]]:
    found = []
    for _ in range(num):
        length = min(size, int(2 ** place.uniform(0, 19)))
        start = place.randrange(size - length + 1)
        found.append((place.choice(("write", "write", "write", "zero", "discard")), start, length))
    return found


def write_ours(chain: Chain, operations: list[tuple[str, int, int]]) -> None:
    for name, start, length in operations:
        if name == "write":
            chain.write_at(start, b"\7" * length)
        elif name == "zero":
            chain.write_zeroes_at(start, length)
        else:
            chain.discard_at(start, length)


def as_commands(operations: list[tuple[str, int, int]]) -> list[str]:
    words = {"write": "write -P 7", "zero": "write -z -u", "discard": "discard"}
    return [f"{words[name]} {start} {length}" for name, start, length in operations]


def assert_same(ours: Path, theirs: Path, *names: str) -> None:
    qemu.check(ours)
    assert check(ours).is_clean
    assert bitmaps.flags(ours) == bitmaps.flags(theirs)
    assert bitmaps.dirty(ours, *names) == bitmaps.dirty(theirs, *names)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_is_written_is_dirty_and_nothing_else(kind: dict[str, Any], tmp_path: Path) -> None:
    place = random.Random(str(kind))
    ours = image(tmp_path / "ours.qcow2", **kind)
    theirs = image(tmp_path / "theirs.qcow2", **kind)
    for num in (1, 60):
        operations = drawn(place, num, SIZE)
        with Chain(ours, writable=True) as chain:
            write_ours(chain, operations)
        qemu.io(theirs, as_commands(operations), "--discard=unmap")
        assert_same(ours, theirs, *NAMES, "off")
    assert qemu.contents(ours) == qemu.contents(theirs)


def test_what_clients_of_a_server_write_is_dirty(tmp_path: Path) -> None:
    ours, theirs = image(tmp_path / "ours.qcow2"), image(tmp_path / "theirs.qcow2")
    # Most of them over what is there, which native code does by itself.
    operations = drawn(random.Random(3), 80, 3 * MIB)
    commands = as_commands(operations)
    address = tmp_path / "s"
    with (
        Chain(ours, writable=True) as chain,
        Server(chain, socket_path=address),
    ):
        listed = [part for command in commands for part in ("-c", command)]
        qemu._run(
            "qemu-io", "--discard=unmap", "-f", "raw", *listed, f"nbd+unix:///?socket={address}"
        )
        flags = bitmaps.stored(ours.read_bytes())
        assert {name: one.flags for name, one in flags.items()} == {
            "fine": bitmaps.AUTO | bitmaps.IN_USE,
            "middle": bitmaps.AUTO | bitmaps.IN_USE,
            "coarse": bitmaps.AUTO | bitmaps.IN_USE,
            "off": 0,
        }
    qemu.io(theirs, commands, "--discard=unmap")
    assert_same(ours, theirs, *NAMES, "off")


def test_a_resized_disk_has_resized_bitmaps(tmp_path: Path) -> None:
    kind = {"cluster_size": 1024}
    ours = image(tmp_path / "ours.qcow2", **kind)
    theirs = image(tmp_path / "theirs.qcow2", **kind)
    place = random.Random(5)
    size = SIZE
    # A bitmap of a bit a sector takes a cluster for 4 MiB. The disk never ends within a granule
    # after it was longer: QEMU has that dirty by what was written past the end.
    for new in (9 * MIB + 512, 3 * MIB, 2 * MIB, 6 * MIB):
        before, after = drawn(place, 5, size), drawn(place, 5, new)
        with Chain(ours, writable=True) as chain:
            write_ours(chain, before)
            chain.resize(new)
            write_ours(chain, after)
        truncate = [f"truncate {new}"]
        qemu.io(theirs, as_commands(before) + truncate + as_commands(after), "--discard=unmap")
        assert_same(ours, theirs, *NAMES, "off")
        size = new
    with Chain(ours, writable=True) as chain:
        chain.resize(2 * MIB)
        chain.resize(6 * MIB)
    qemu.io(theirs, ["truncate 2M", "truncate 6M"])
    assert_same(ours, theirs, *NAMES, "off")


def test_a_bitmap_without_writes_is_as_it_was_and_so_is_the_file(tmp_path: Path) -> None:
    path = image(tmp_path / "one.qcow2")
    before = path.read_bytes()
    with Chain(path, writable=True) as chain:
        chain.read_at(0, MIB)
        chain.write_at(0, b"")
        chain.flush()
    assert path.read_bytes() == before


def test_bitmaps_that_are_off_are_not_marked(tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", MIB)
    add(path, "off", 65536, "--disable")
    before = bitmaps.stored(path.read_bytes())
    with Chain(path, writable=True) as chain:
        chain.write_at(0, b"\1")
        chain.flush()
        assert bitmaps.stored(path.read_bytes()) == before
    assert bitmaps.stored(path.read_bytes()) == before


def test_a_bitmap_that_was_not_stored_stays_in_use(tmp_path: Path) -> None:
    path = image(tmp_path / "one.qcow2")
    content = bytearray(path.read_bytes())
    entry = bitmaps.stored(content)["middle"].at
    content[entry + 12 : entry + 16] = (bitmaps.AUTO | bitmaps.IN_USE).to_bytes(4, "big")
    path.write_bytes(content)
    with Chain(path, writable=True) as chain:
        chain.write_at(0, b"\1" * 512)
        with pytest.raises(UnsupportedImageError, match="'middle' is out of date"):
            chain.resize(9 * MIB)
        assert chain.size == SIZE
    qemu.check(path)
    listed = {"fine": ["auto"], "middle": ["auto", "in-use"], "coarse": ["auto"], "off": []}
    assert bitmaps.flags(path) == listed
    assert bitmaps.dirty(path, "fine") == [[(0, 512), (MIB, MIB + 100 * KIB)]]
    assert (
        bitmaps.stored(path.read_bytes())["middle"].bits == bitmaps.stored(content)["middle"].bits
    )


@pytest.mark.parametrize(
    ("within", "value"),
    [
        ((12, 16), 1 << 2 | bitmaps.AUTO),
        ((16, 17), 2),
        ((17, 18), 8),
        ((8, 12), 7),
        ((0, 8), 0x30000),
        ((0, 8), 1 << 40),
        ((20, 24), 1),
    ],
    ids=["flag", "kind", "granularity", "table size", "L1 table", "past the end", "extra data"],
)
def test_what_is_not_understood_is_not_trusted_any_more(
    within: tuple[int, int], value: int, tmp_path: Path
) -> None:
    path = qemu.create(tmp_path / "one.qcow2", MIB)
    add(path, "one", 65536)
    content = bytearray(path.read_bytes())
    start, end = (bitmaps.stored(content)["one"].at + offset for offset in within)
    content[start:end] = value.to_bytes(end - start, "big")
    path.write_bytes(content)
    with Chain(path, writable=True) as chain:
        chain.write_at(0, b"\1")
    after = path.read_bytes()
    assert after[AUTOCLEAR_AT : AUTOCLEAR_AT + 8] == bytes(8)
    assert after[start:end] == content[start:end]
    assert qemu.contents(path)[:1] == b"\1"


def test_all_ones_stay_ones_up_to_where_the_disk_ended(tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", MIB)
    add(path, "one", 65536)
    content = bytearray(path.read_bytes())
    at = bitmaps.stored(content)["one"].at
    table = int.from_bytes(content[at : at + 8], "big")
    content[table : table + 8] = (1).to_bytes(8, "big")
    path.write_bytes(content)
    with Chain(path, writable=True) as chain:
        chain.write_at(0, b"\1")
    assert bitmaps.dirty(path, "one") == [[(0, MIB)]]
    assert bitmaps.stored(path.read_bytes())["one"].bits[-1] == 0xFF
    with Chain(path, writable=True) as chain:
        chain.resize(4 * MIB)
        chain.write_at(2 * MIB, b"\1")
    assert bitmaps.dirty(path, "one") == [[(0, MIB), (2 * MIB, 2 * MIB + 65536)]]
    qemu.check(path)


def test_a_commit_is_a_write_below_and_none_above(tmp_path: Path) -> None:
    base = qemu.create(tmp_path / "base.qcow2", MIB)
    top = qemu.create(tmp_path / "top.qcow2", backing=base)
    for path in (base, top):
        add(path, "one", 65536)
    qemu.io(top, ["write 100k 1k", "write -z 512k 64k"])
    above = bitmaps.dirty(top, "one")
    commit(top)
    assert bitmaps.dirty(base, "one") == above == bitmaps.dirty(top, "one")
    for path in (base, top):
        qemu.check(path)


def test_a_rebase_keeps_bitmaps(tmp_path: Path) -> None:
    base = qemu.create(tmp_path / "base.qcow2", MIB)
    qemu.io(base, ["write -P 1 256k 64k"])
    shutil.copy(base, tmp_path / "a-much-longer-name.qcow2")
    top = qemu.create(tmp_path / "top.qcow2", backing=base)
    add(top, "one", 65536)
    qemu.io(top, ["write 0 64k"])
    rebase(top, tmp_path / "a-much-longer-name.qcow2")
    assert bitmaps.dirty(top, "one") == [[(0, 64 * KIB)]]
    rebase(top, None)
    assert bitmaps.dirty(top, "one") == [[(0, 64 * KIB), (256 * KIB, 320 * KIB)]]
    qemu.check(top)


def test_memory_is_in_proportion_to_what_was_written(tmp_path: Path) -> None:
    # A bit a sector of 1 TiB takes 256 MiB.
    path = qemu.create(tmp_path / "one.qcow2", 1 << 40)
    add(path, "one", 512)
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END, path], check=True, capture_output=True, timeout=50
    )
    before, after = map(int, done.stdout.split())
    assert after - before < 32 * KIB
    assert bitmaps.dirty(path, "one") == [[((1 << 40) - 512, 1 << 40)]]


AT_THE_END = """
import resource, sys
from hatchway.disk import Chain
def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with Chain(sys.argv[1], writable=True) as chain:
    before = most()
    chain.write_at(chain.size - 512, bytes([1]) * 512)
    chain.write_at(chain.size - 512, bytes([2]) * 512)
print(before, most())
"""


def test_a_layer_by_itself_keeps_them_too(tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", MIB)
    add(path, "one", 65536)
    with writing(path) as layer:
        layer.write(70_000, b"\1")
    assert bitmaps.dirty(path, "one") == [[(64 * KIB, 128 * KIB)]]
