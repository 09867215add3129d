"""What an active layer costs, what it keeps of a file, and what it refuses."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from hatchway.disk import Chain, CorruptImageError, UnsupportedImageError
from hatchway.disk.active import ActiveLayer, create, open_to_write
from hatchway.disk.files import Descriptors
from hatchway.disk.image import Image
from tests.fault.cuts import Recorder
from tests.real import qemu
from tests.real.layers import writing

pytestmark = [pytest.mark.real, qemu.needs_qemu]

KIB, MIB = 1024, 1 << 20
AUTOCLEAR = 88


def set_bits(path: Path, at: int, bits: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (old,) = struct.unpack(">Q", file.read(8))
        file.seek(at)
        file.write(struct.pack(">Q", old | bits))


def autoclear(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[AUTOCLEAR : AUTOCLEAR + 8], "big")


def test_new_clusters_of_one_write_take_one_write(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, 64 * MIB)
    recorder = Recorder()
    with writing(path, opened=recorder.opened) as layer:
        layer.write(0, b"\1" * KIB)
        before = len(recorder.events)
        layer.write(MIB + 100, b"\2" * MIB)
        assert len(recorder.events) == before + 1
        layer.write(MIB + 200, b"\3" * MIB)
        assert len(recorder.events) == before + 2
        assert all(event.sectors for event in recorder.events)  # no sync so far
        layer.flush()
        assert sum(not event.sectors for event in recorder.events) == 2
        num_events = len(recorder.events)
        layer.flush()
        assert len(recorder.events) == num_events


def test_a_disk_of_a_tebibyte_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, 1 << 40)
    with writing(path, cache_bytes=MIB) as layer:
        for number in range(500):
            layer.write(number * (1 << 31), b"\1")
            assert layer.cached_bytes <= MIB * 5 // 4
        layer.discard(0, 1 << 40)
        layer.write_zeroes(0, 1 << 40)
    qemu.check(path)
    assert path.stat().st_size < 200 * MIB


def test_zeros_over_nothing_take_tables_and_discards_nothing(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, 1 << 40)
    num_bytes = path.stat().st_size
    with writing(path) as layer:
        layer.discard(0, 1 << 40)
        assert path.stat().st_size == num_bytes
        layer.write_zeroes(100, (16 << 30) - 200)
    # An L2 table of 64 KiB for each 512 MiB, and the cluster at each end.
    assert path.stat().st_size <= num_bytes + 32 * 64 * KIB
    qemu.check(path)
    first, rest = qemu.extents(path)
    assert (first["length"], first["present"], first["zero"]) == (16 << 30, True, True)
    assert not rest["present"]


def test_zeros_over_nothing_hide_what_comes_to_lie_below(tmp_path: Path) -> None:
    base, path = qemu.raw(tmp_path / "base.raw", b"\1" * MIB), tmp_path / "one.qcow2"
    create(path, MIB)
    with writing(path) as layer:
        layer.write_zeroes(0, MIB // 2)
    qemu.img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", base, path)
    assert qemu.contents(path) == bytes(MIB // 2) + b"\1" * (MIB // 2)


def test_room_that_was_given_up_is_used_before_the_file_grows_much(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, 64 * MIB, cluster_size=2 * MIB)
    with writing(path) as layer:
        layer.write(0, b"\1" * (20 * MIB))
        num_bytes = path.stat().st_size
        layer.discard(0, 20 * MIB)
        layer.write(30 * MIB, b"\2" * (20 * MIB))
        assert path.stat().st_size == num_bytes
    qemu.check(path)


def test_zeros_hide_a_long_disk_below_in_little_room(tmp_path: Path) -> None:
    base, path = tmp_path / "base.qcow2", tmp_path / "one.qcow2"
    create(base, 16 << 30)
    create(path, 16 << 30, backing=base.name, backing_format="qcow2")
    qemu.io(base, ["write -P 1 8G 1M"])
    with writing(path) as layer:
        layer.discard(0, 16 << 30)
    qemu.check(path)
    assert path.stat().st_size < 8 * MIB
    with Chain(path) as chain:
        assert not any(chain.read_at(8 << 30, MIB))


def test_what_was_written_is_read_through_the_image_before_and_after_it_is_in_the_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "one.qcow2"
    create(path, MIB, cluster_size=4096)
    image = Image(path, Descriptors())
    layer = ActiveLayer(image, open_to_write(path))
    layer.resize(64 * MIB)
    layer.write(40 * MIB, b"\1" * 4096)
    before = image.words(40 * MIB, 16, 4096), image.plain_entries(40 * MIB, 16, 4096)
    layer.close()
    after = image.words(40 * MIB, 16, 4096), image.plain_entries(40 * MIB, 16, 4096)
    image.close()
    assert before[0] is not None
    assert before[1]
    assert image.size == 64 * MIB
    assert np.array_equal(before[0], after[0])
    assert before[1] == after[1]


def test_room_that_was_given_up_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, 8 * MIB)
    sizes = []
    for _ in range(3):
        with writing(path) as layer:
            layer.write(0, b"\1" * 4 * MIB)
            layer.flush()
            layer.discard(0, 4 * MIB)
        sizes.append(path.stat().st_size)
    assert sizes[0] == sizes[-1]


def test_zeros_that_keep_their_room_are_written_to_in_place(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, 8 * MIB)
    with writing(path) as layer:
        layer.write(0, b"\1" * MIB)
        layer.write_zeroes(0, MIB, may_unmap=False)
        layer.flush()
        before = path.stat().st_size
        layer.write(0, b"\2" * MIB)
    assert path.stat().st_size == before
    qemu.check(path)
    assert qemu.contents(path)[:MIB] == b"\2" * MIB


def test_words_that_are_kept_are_right_when_what_changed_is_looked_up_again(
    tmp_path: Path,
) -> None:
    path = qemu.create(tmp_path / "one.qcow2", MIB, cluster_size=16384, extended_l2="on")
    qemu.io(path, ["write -P 1 0 500k"])
    qemu.img("snapshot", "-c", "before", path)
    changed: list[tuple[int, int]] = []
    place = random.Random(5)
    with writing(path, changed=lambda *range_: changed.append(range_)) as layer:
        kept = layer.words(0, 2048, 512)
        assert kept is not None
        for _ in range(200):
            offset = place.randrange(MIB)
            size = min(place.randrange(1, 60_000), MIB - offset)
            layer.write(offset, bytes([place.randrange(256)]) * size)
            layer.write_zeroes(*sorted((0, place.randrange(MIB // 8))), may_unmap=False)
            layer.discard(place.randrange(MIB // 2), MIB // 4)
            for start, end in changed:
                for at in range(start, end, 16384):
                    words = layer.words(at, 32, 512)
                    kept[at // 512 : at // 512 + 32] = 0 if words is None else words
            changed.clear()
            now = layer.words(0, 2048, 512)
            assert now is not None
            assert np.array_equal(kept, now)


@pytest.mark.parametrize("size", [3 * MIB, 100 * MIB, 4096 * MIB])
def test_a_disk_grows_past_what_its_table_covers(size: int, tmp_path: Path) -> None:
    base = qemu.raw(tmp_path / "base.raw", b"\7" * (2 * MIB))
    path = qemu.create(tmp_path / "one.qcow2", MIB, base, cluster_size=512, refcount_bits=64)
    with writing(path) as layer:
        layer.write(0, b"\1" * KIB)
        layer.resize(size)
        layer.write(size - KIB, b"\2" * KIB)
    qemu.check(path)
    with Chain(path) as chain:
        assert chain.size == size
        assert chain.read_at(KIB, MIB - KIB) == b"\7" * (MIB - KIB)
        assert not any(chain.read_at(MIB, 2 * MIB - KIB))
        assert chain.read_at(size - KIB, KIB) == b"\2" * KIB


def test_the_refcount_table_grows_and_nothing_is_leaked(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    # 64 entries of 64 refcounts each: 2 MiB.
    create(path, 8 * MIB, cluster_size=512, refcount_bits=64)
    content = random.Random(6).randbytes(5 * MIB)
    with writing(path) as layer:
        layer.write(MIB, content)
    qemu.check(path)
    assert qemu.contents(path)[MIB : 6 * MIB] == content


def test_a_table_that_lies_where_one_lay_begins_empty(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, MIB, cluster_size=4096)
    with writing(path) as layer:
        layer.write(0, b"\1" * MIB)
        layer.resize(0)
        layer.resize(MIB)
        layer.write(MIB // 2, b"\2" * 4096)
    qemu.check(path)
    assert qemu.contents(path) == (bytes(MIB // 2) + b"\2" * 4096).ljust(MIB, b"\0")


def test_the_end_of_a_disk_is_discarded_with_its_last_cluster(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, 65536 * 3 + 512)
    with writing(path) as layer:
        layer.write(0, b"\1" * layer.size)
        layer.discard(65536 - 1, layer.size - 65536 + 1)
    assert qemu.contents(path) == (b"\1" * 65536).ljust(65536 * 3 + 512, b"\0")


def test_what_only_others_understand_is_cleared_before_the_first_write(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, MIB)
    set_bits(path, AUTOCLEAR, 1 << 40 | 1)
    recorder = Recorder()
    with writing(path, opened=recorder.opened) as layer:
        layer.flush()
        assert not recorder.events
        layer.write(0, b"\1")
        assert list(recorder.events[0].sectors) == [0]
        assert not recorder.events[1].sectors
    assert autoclear(path) == 1 << 40 | 1
    with writing(path) as layer:
        layer.discard(0, MIB)
    assert autoclear(path) == 0


def test_the_mark_of_a_raw_data_file_and_unknown_extensions_are_kept(tmp_path: Path) -> None:
    options = {"data_file": tmp_path / "data.bin", "data_file_raw": "on"}
    path = qemu.create(tmp_path / "one.qcow2", MIB, **options)
    set_bits(path, AUTOCLEAR, 1 << 40)
    with path.open("r+b") as file:
        start = bytearray(file.read(65536))
        end = start.index(struct.pack(">II", 0x44415441, len(str(options["data_file"]))))
        own = bytes(start[end:60_000])
        start[end:60_000] = (struct.pack(">II", 0x12345678, 8) + b"unknown!" + own)[: 60_000 - end]
        file.seek(0)
        file.write(start)
    with writing(path) as layer:
        layer.write(100, b"\1" * 1000)
        layer.resize(2 * MIB)
        layer.write(2 * MIB - 100, b"\2" * 100)
    assert autoclear(path) == 2
    assert struct.pack(">II", 0x12345678, 8) + b"unknown!" in path.read_bytes()
    qemu.check(path)
    assert (tmp_path / "data.bin").read_bytes() == qemu.contents(path)


@pytest.mark.parametrize(("bit", "said"), [(1 << 0, "dirty"), (1 << 1, "corrupt")])
def test_a_file_that_is_marked_as_wrong_is_refused(bit: int, said: str, tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, MIB)
    set_bits(path, 72, bit)
    with pytest.raises(CorruptImageError, match=f"{said}.*check -r all"), writing(path):
        pass


def test_a_raw_file_is_refused(tmp_path: Path) -> None:
    path = qemu.raw(tmp_path / "one.raw", bytes(MIB))
    with pytest.raises(UnsupportedImageError, match="only qcow2"), writing(path):
        pass


def test_a_cluster_that_has_too_many_references_is_not_given_up(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, MIB, cluster_size=4096)
    qemu.io(path, ["write -P 1 0 8k"])
    content = bytearray(path.read_bytes())
    content[4 * 4096 + 8 : 4 * 4096 + 16] = content[4 * 4096 : 4 * 4096 + 8]
    path.write_bytes(content)
    with writing(path) as layer:
        layer.discard(0, 4096)
        with pytest.raises(CorruptImageError, match="check -r all"):
            layer.discard(4096, 4096)


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (MIB, 1), (0, MIB + 1), (1, -1)])
def test_what_is_not_within_the_disk_is_refused(offset: int, size: int, tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, MIB)
    with writing(path) as layer:
        for call in (layer.discard, layer.write_zeroes):
            with pytest.raises(ValueError, match="not within"):
                call(offset, size)
        if size >= 0:
            with pytest.raises(ValueError, match="not within"):
                layer.write(offset, bytes(size))
        for wrong in (511, -512, 1 << 60):
            with pytest.raises(ValueError, match=r"512|L1 table"):
                layer.resize(wrong)
    for call in (layer.flush, lambda: layer.write(0, b"")):
        with pytest.raises(ValueError, match="closed"):
            call()
    layer.close()


def test_snapshots_of_version_2_do_not_say_how_long_they_are(tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", MIB, compat="0.10")
    qemu.img("snapshot", "-c", "before", path)
    with pytest.raises(UnsupportedImageError, match="amend"), writing(path) as layer:
        layer.resize(2 * MIB)
    qemu.img("amend", "-f", "qcow2", "-o", "compat=1.1", path)
    with writing(path) as layer:
        layer.resize(2 * MIB)
    qemu.check(path)
