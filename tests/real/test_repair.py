"""A repaired image is clean to ``qemu-img check``, and holds the same bytes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hatchway.disk import LockedImageError, check
from hatchway.disk.locks import lock_to_write
from tests.real import qemu
from tests.real.damage import COPIED, OFFSET, Patch, assert_agrees, assert_repaired, verdict_of_qemu

pytestmark = [pytest.mark.real, qemu.needs_qemu]

MIB = 1024 * 1024


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = qemu.create(tmp_path / "one.qcow2", 4 * MIB)
    qemu.io(path, ["write -P 1 0 1M", "write -P 2 2M 64k"])
    return path


def test_leaks_alone_are_repaired_alone(image: Path) -> None:
    patch = Patch(image)
    l2_at = patch.l2_at(2)
    host = patch.word(l2_at) & OFFSET
    patch.set_refcount(host, 7)
    patch.set_word(l2_at, host)  # as it is where the refcount is not 1
    assert_agrees(check(image))
    report = assert_repaired(image, "leaks")
    assert (report.leaks_fixed, report.corruptions_fixed) == (1, 0)
    assert patch.word(l2_at) == host | COPIED


def test_what_is_no_leak_is_left_by_a_repair_of_leaks(image: Path) -> None:
    patch = Patch(image)
    low, high = (patch.word(patch.l2_at(number)) & OFFSET for number in (1, 2))
    patch.set_refcount(low, 0)
    patch.set_refcount(high, 2)
    report = check(image, repair="leaks")
    assert (report.leaks, report.leaks_fixed) == (0, 1)
    assert report.corruptions == 2
    assert patch.refcount(low) == 0
    assert_agrees(report)


def test_nothing_is_freed_where_a_table_cannot_be_followed(image: Path) -> None:
    patch = Patch(image)
    entry = patch.word(patch.l1_offset)
    patch.set_word(patch.l1_offset, entry + 512)
    for kind in ("leaks", "all"):
        report = check(image, repair=kind)  # type: ignore[arg-type]
        assert report.leaks == 18  # the table and all that it refers to
        assert (report.leaks_fixed, report.corruptions) == (0, 1)
    patch.set_word(patch.l1_offset, entry)
    qemu.check(image)


def test_copied_flags_are_set_right(image: Path) -> None:
    patch = Patch(image)
    for place in (patch.l2_at(0), patch.l2_at(5), patch.l1_offset):
        patch.set_word(place, patch.word(place) ^ COPIED)
    assert_agrees(check(image))
    assert assert_repaired(image).corruptions_fixed == 3


def test_a_cluster_that_two_places_share_is_copied_when_it_is_written(image: Path) -> None:
    patch = Patch(image)
    patch.set_word(patch.l2_at(3), patch.word(patch.l2_at(4)))
    assert_agrees(check(image))
    assert_repaired(image)
    assert patch.refcount(patch.word(patch.l2_at(4)) & OFFSET) == 2
    qemu.io(image, ["write -P 9 192k 64k", "read -P 1 256k 64k"])
    assert_repaired(image)  # QEMU leaves the other one's copied flag clear


def test_a_refcount_that_its_width_cannot_hold_is_left(tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", MIB, refcount_bits=1)
    qemu.io(path, ["write -P 1 0 256k"])
    patch = Patch(path)
    patch.set_word(patch.l2_at(1), patch.word(patch.l2_at(2)))
    report = check(path, repair="all")
    assert [finding.kind for finding in report.findings] == ["refcount too low"]
    assert (report.leaks, report.leaks_fixed) == (0, 1)


@pytest.mark.parametrize("bits", [1, 16, 64])
@pytest.mark.parametrize("damage", ["no block", "past the end", "misaligned", "on a data cluster"])
def test_refcounts_that_are_lost_are_written_anew(damage: str, bits: int, tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", 8 * MIB, refcount_bits=bits, cluster_size=1024)
    qemu.io(path, ["write -P 1 0 1M", "write -P 2 2M 3M"])
    patch = Patch(path)
    value = {
        "no block": 0,
        "past the end": 1 << 40,
        "misaligned": patch.word(patch.table_offset) + 512,
        "on a data cluster": patch.word(patch.l2_at(9)) & OFFSET,
    }[damage]
    patch.set_word(patch.table_offset, value)
    assert verdict_of_qemu(path).status in (1, 2)  # 1: it cannot read refcounts
    assert check(path).corruptions
    report = assert_repaired(path)
    assert report.corruptions_fixed
    assert Patch(path).table_offset != patch.table_offset
    qemu.io(path, ["write -P 3 6M 1M"])
    qemu.check(path)


def test_lazy_refcounts_of_a_writer_that_was_killed(tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", 8 * MIB, lazy_refcounts="on")
    command = ["qemu-io", "-c", "write -P 1 0 3M", "-c", "flush", "-c", "abort", path]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
    report = check(path)
    assert report.is_dirty
    assert report.corruptions
    assert_agrees(report)
    report = assert_repaired(path)
    assert not report.is_dirty
    assert not Patch(path).read(79, 1)[0] & 1
    qemu.io(path, ["read -P 1 0 3M"], "-r")


def test_a_file_that_is_clean_is_no_longer_marked_as_corrupt(image: Path) -> None:
    Patch(image).write(79, b"\x02")
    assert check(image).is_marked_corrupt
    assert check(image, repair="leaks").is_marked_corrupt
    assert not check(image, repair="all").is_marked_corrupt
    qemu.io(image, ["write -P 1 0 64k"])


def test_a_repair_clears_autoclear_bits_that_it_does_not_know(image: Path) -> None:
    patch = Patch(image)
    qemu.img("bitmap", "--add", image, "one")
    patch.set_word(88, patch.word(88) | 1 << 17)
    check(image, repair="all")
    assert patch.word(88) == 1 | 1 << 17  # nothing was written
    patch.set_refcount(patch.word(patch.l2_at(0)) & OFFSET, 2)
    check(image, repair="all")
    assert patch.word(88) == 1
    assert_agrees(check(image))


def test_qemu_keeps_off_a_file_that_is_being_repaired(image: Path) -> None:
    with image.open("r+b") as file:
        lock_to_write(file.fileno(), image)
        for flags in ((), ("-r",)):
            with pytest.raises(AssertionError, match=r'Failed to get (shared )?"write" lock'):
                qemu.io(image, ["read 0 64k"], *flags)
        with pytest.raises(LockedImageError, match="which writes to it"):
            check(image)
    assert check(image).is_clean


def test_copied_flags_of_an_external_data_file_are_set(tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", 4 * MIB, data_file=tmp_path / "data.bin")
    qemu.io(path, ["write -P 1 0 512k"])
    patch = Patch(path)
    for number in (1, 5):
        patch.set_word(patch.l2_at(number), patch.word(patch.l2_at(number)) ^ COPIED)
    assert_agrees(check(path))
    assert assert_repaired(path).corruptions_fixed == 2
