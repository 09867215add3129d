"""A repair that is cut short leaves the image no worse, and can be run again."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hatchway.disk import Chain, check
from hatchway.disk.checking.repair import WritableFile
from tests.crash import Entry, after_crash
from tests.real import qemu
from tests.real.damage import COPIED, OFFSET, Patch, verdict_of_qemu

pytestmark = [pytest.mark.fault, qemu.needs_qemu]

KIB = 1024


def leaks_and_too_low(path: Path) -> None:
    patch = Patch(path)
    hosts = [patch.word(patch.l2_at(number)) & OFFSET for number in range(6)]
    for host in hosts[:3]:
        patch.set_refcount(host, 0)
    for host in hosts[3:]:
        patch.set_refcount(host, 2)
    patch.set_word(patch.l2_at(7), hosts[5] | COPIED)


def wrong_flags(path: Path) -> None:
    patch = Patch(path)
    for place in (patch.l2_at(1), patch.l2_at(2), patch.l2_at(40), patch.l1_offset):
        patch.set_word(place, patch.word(place) ^ COPIED)
    patch.write(79, b"\x03")


def lost_block(path: Path) -> None:
    patch = Patch(path)
    patch.set_word(patch.table_offset, 0)


def killed_writer(path: Path) -> None:
    qemu.img("amend", "-f", "qcow2", "-o", "lazy_refcounts=on", path)
    command = ["qemu-io", "-c", "write -P 7 100k 50k", "-c", "flush", "-c", "abort", path]
    subprocess.run(command, capture_output=True, check=False)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("damage", [leaks_and_too_low, wrong_flags, lost_block, killed_writer])
def test_a_repair_that_is_cut_short(
    damage: Callable[[Path], None], seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = qemu.create(tmp_path / "one.qcow2", 256 * KIB, cluster_size=1024)
    qemu.io(path, ["write -P 1 0 64k", "write -c -P 2 128k 16k"])
    qemu.img("snapshot", "-c", "before", path)
    qemu.io(path, ["write -P 3 8k 40k"])
    damage(path)
    damaged, expected = path.read_bytes(), contents(path)
    before = verdict_of_qemu(path).said
    log: list[Entry] = []
    write, sync = WritableFile.write, WritableFile.sync

    def noted_write(self: WritableFile, content: bytes, offset: int) -> None:
        log.append((offset, content))
        write(self, content, offset)

    def noted_sync(self: WritableFile) -> None:
        log.append(None)
        sync(self)

    with monkeypatch.context() as patched:
        patched.setattr(WritableFile, "write", noted_write)
        patched.setattr(WritableFile, "sync", noted_sync)
        assert check(path, repair="all").is_clean
    assert verdict_of_qemu(path).status == 0
    assert contents(path) == expected
    assert len(log) > 2
    place = random.Random(seed)
    for at in range(len(log) + 1):
        path.write_bytes(after_crash(damaged, log, at, place))
        after = verdict_of_qemu(path).said
        assert after["check-errors"] == 0, (seed, at)
        assert after.get("corruptions", 0) <= before.get("corruptions", 0), (seed, at)
        assert contents(path) == expected, (seed, at)
        assert check(path, repair="all").is_clean, (seed, at)
        qemu.check(path)


def test_a_full_disk_leaves_the_image_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = qemu.create(tmp_path / "one.qcow2", 256 * KIB, cluster_size=1024)
    qemu.io(path, ["write -P 1 0 64k"])
    lost_block(path)
    start = path.read_bytes()

    def no_space(fd: int, content: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", no_space)
    with pytest.raises(Exception, match=r"one.qcow2 cannot be repaired: .* No space left"):
        check(path, repair="all")
    assert path.read_bytes() == start


def contents(path: Path) -> bytes:
    with Chain(path) as chain:
        return chain.read_at(0, chain.size)
