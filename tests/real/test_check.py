"""A check says what ``qemu-img check`` says."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hatchway.cli import main
from hatchway.disk import (
    CorruptImageError,
    ImageError,
    LockedImageError,
    UnsupportedImageError,
    check,
    check_chain,
)
from tests.real import qemu
from tests.real.damage import COPIED, OFFSET, Patch, assert_agrees, assert_repaired, verdict_of_qemu
from tests.real.test_images import KINDS

pytestmark = [pytest.mark.real, qemu.needs_qemu]

MIB = 1024 * 1024
CLUSTER = 65536


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = qemu.create(tmp_path / "one.qcow2", 4 * MIB)
    qemu.io(path, ["write -P 1 0 1M", "write -P 2 2M 64k"])
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_image_of_each_kind(kind: str, tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", 10 * MIB, **KINDS[kind])
    qemu.io(path, ["write -P 1 0 4k", "write -P 2 100k 1000k", "write -z 200k 90k"])
    qemu.io(path, ["discard 512k 256k", "write -P 3 5M 300k", "write -P 4 4M 64k"])
    if "preallocation" not in KINDS[kind]:
        qemu.io(path, ["write -c -P 6 8M 2M", "write -c -P 7 6M 2M"])
    assert_agrees(check(path))


@pytest.mark.parametrize("kind", ["version 2", "version 3", "subclusters", "clusters of 512 bytes"])
def test_snapshots_and_bitmaps_refer_to_clusters_too(kind: str, tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", 10 * MIB, **KINDS[kind])
    if kind != "version 2":
        qemu.img("bitmap", "--add", "-g", "512", path, "first")
        qemu.img("bitmap", "--add", path, "second")
    for number in range(1, 6):
        qemu.io(
            path, [f"write -P {number} {number * 128}k 700k", f"write -c -P 9 {3 + number}M 1M"]
        )
        qemu.img("snapshot", "-c", f"snapshot {number}", path)
    qemu.img("snapshot", "-d", "snapshot 2", path)
    if kind == "version 2":
        qemu.img("snapshot", "-a", "snapshot 3", path)
    else:
        qemu.img("resize", "-q", path, "12M")
    qemu.io(path, ["write -P 8 1M 1M"])
    assert_agrees(check(path))


@pytest.mark.parametrize("is_raw", ["on", "off"])
def test_clusters_of_an_external_data_file_are_not_counted(is_raw: str, tmp_path: Path) -> None:
    options = {"data_file": tmp_path / "data.bin", "data_file_raw": is_raw}
    path = qemu.create(tmp_path / "one.qcow2", 4 * MIB, **options)
    qemu.io(path, ["write -P 1 0 64k", "write -P 2 1M 300k", "write -z 1100k 20k"])
    assert_agrees(check(path))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 32, 64])
def test_refcounts_of_each_width_that_are_wrong(bits: int, tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", 4 * MIB, refcount_bits=bits, cluster_size=4096)
    qemu.io(path, ["write -P 1 0 1M", "discard 512k 64k"])
    patch = Patch(path)
    last = path.stat().st_size // 4096 * 4096 - 4096
    discarded = next(at for at in range(4096, last, 4096) if not patch.refcount(at))
    patch.set_refcount(discarded, 1)
    assert_agrees(report := check(path))
    assert (report.leaks, report.corruptions) == (1, 0)
    assert report.findings[0][0] == "leak"
    assert report.findings[0].host_offset == discarded
    host = patch.word(patch.l2_at(3)) & OFFSET
    patch.set_refcount(host, 0)
    assert_agrees(report := check(path))
    # Its copied flag says 1.
    assert sorted(finding.kind for finding in report.findings) == [
        "copied flag",
        "leak",
        "refcount too low",
    ]
    assert_repaired(path)
    assert (patch.refcount(discarded), patch.refcount(host)) == (0, 1)


def damaged_entries() -> dict[str, Any]:
    return {
        "copied flag": lambda entry, size: entry ^ COPIED,
        "misaligned": lambda entry, size: entry + 512,
        "past the end": lambda entry, size: (entry & OFFSET) + (1 << 40) | COPIED,
        "reserved bits": lambda entry, size: entry | 1 << 60,
        "refcount too low": lambda entry, size: entry + CLUSTER,  # the one after it, twice
        "overlap": lambda entry, size: COPIED | CLUSTER,  # the refcount table
    }


@pytest.mark.parametrize("kind", damaged_entries())
def test_a_damaged_l2_entry_is_named_by_its_place(kind: str, image: Path) -> None:
    patch = Patch(image)
    at = patch.l2_at(3)
    entry = patch.word(at)
    patch.set_word(at, damaged_entries()[kind](entry, CLUSTER))
    report = check(image)
    assert verdict_of_qemu(image).status == 2
    found = [finding for finding in report.findings if finding.kind == kind]
    assert len(found) == 1
    if kind not in ("overlap", "refcount too low"):
        assert found[0].offset == at
        assert found[0].guest_offset == 3 * CLUSTER
    assert found[0].host_offset is not None


@pytest.mark.parametrize("kind", ["misaligned", "past the end", "reserved bits", "copied flag"])
def test_a_damaged_l1_entry_is_named_by_its_place(kind: str, image: Path) -> None:
    patch = Patch(image)
    patch.set_word(patch.l1_offset, damaged_entries()[kind](patch.word(patch.l1_offset), CLUSTER))
    report = check(image)
    assert verdict_of_qemu(image).status == 2
    found = [finding for finding in report.findings if finding.kind == kind]
    assert [finding.offset for finding in found] == [patch.l1_offset]


def test_a_damaged_entry_that_only_a_snapshot_has(image: Path) -> None:
    qemu.img("snapshot", "-c", "before", image)
    qemu.io(image, ["write -P 5 3M 64k"])  # the L2 table is copied
    patch = Patch(image)
    snapshots_at = int.from_bytes(patch.read(64, 8), "big")
    at = patch.l2_at(3, patch.word(snapshots_at))
    assert at != patch.l2_at(3)
    patch.set_word(at, patch.word(at) + 512)
    assert verdict_of_qemu(image).status == 2
    found = [one for one in check(image).findings if one.kind == "misaligned"]
    assert [(one.offset, one.guest_offset) for one in found] == [(at, None)]


def test_a_damaged_bitmap(image: Path) -> None:
    qemu.img("bitmap", "--add", "--enable", image, "one")
    qemu.io(image, ["write -P 5 0 64k"])
    patch = Patch(image)
    raw = patch.read(0, CLUSTER)
    at = raw.index(struct.pack(">II", 0x23852875, 24)) + 8
    directory = struct.unpack_from(">Q", raw, at + 16)[0]
    table = patch.word(directory)
    cluster = patch.word(table)
    for value in (cluster + 512, cluster | 1 << 57, 1 << 40):
        patch.set_word(table, value)
        assert verdict_of_qemu(image).status in (1, 2)  # 1: it opens no such file
        assert check(image).corruptions
    patch.set_word(table, 0)
    assert_agrees(check(image))
    assert_repaired(image, "leaks")


def test_an_image_that_another_program_has_is_refused(image: Path) -> None:
    for flags, allowed in (((), None), (("-r",), check)):
        command = ["qemu-io", *flags, "-f", "qcow2", str(image)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("length\n")
            process.stdin.flush()
            assert process.stdout.readline()  # it is open when it answers
            with pytest.raises(LockedImageError, match="is open in another program, which"):
                check(image, repair="all")
            if allowed is None:
                with pytest.raises(LockedImageError, match="which writes to it"):
                    check(image)
                assert check(image, lock=False).is_clean
            else:
                assert check(image).is_clean
            process.stdin.close()
            process.stdout.read()


def test_what_cannot_be_checked_is_refused(image: Path, tmp_path: Path) -> None:
    patch = Patch(image)
    with pytest.raises(ValueError, match="repair must be 'leaks', 'all' or None, not 'some'"):
        check(image, repair="some")  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="to count what refers to them takes"):
        check(image, most_bytes=20)
    with pytest.raises(CorruptImageError, match="is no qcow2 file"):
        check(qemu.raw(tmp_path / "one.raw", b"x" * 4096))
    patch.write(32, struct.pack(">I", 2))
    with pytest.raises(UnsupportedImageError, match=r"is encrypted \(LUKS\)"):
        check(image)
    patch.write(32, struct.pack(">I", 0))
    patch.set_word(48, 12345)
    with pytest.raises(CorruptImageError, match="said to lie at 0x3039"):
        check(image)


def test_few_findings_are_kept_and_all_are_counted(image: Path) -> None:
    patch = Patch(image)
    for number in range(10):
        patch.set_refcount(patch.word(patch.l2_at(number)) & OFFSET, 0)
    report = check(image, most_findings=3)
    assert len(report.findings) == 3
    assert report.corruptions == 20
    assert_agrees(check(image))


def test_every_file_of_a_chain_is_checked(image: Path, tmp_path: Path) -> None:
    base = qemu.raw(tmp_path / "base.raw", bytes(MIB))
    qemu.img("rebase", "-u", "-F", "raw", "-b", base.name, image)
    top = qemu.create(tmp_path / "top.qcow2", None, image)
    Patch(image).set_refcount(5 * CLUSTER, 3)
    reports = list(check_chain(top))
    assert [report.path for report in reports] == [top, image]
    assert [report.is_clean for report in reports] == [True, False]
    assert all(report.is_clean for report in check_chain(top, repair="all"))
    qemu.img("rebase", "-u", "-F", "qcow2", "-b", top.name, image)
    with pytest.raises(ImageError, match="lies below itself"):
        list(check_chain(top))


def test_progress_is_told_up_to_the_end(tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", 16 * MIB, cluster_size=512)
    qemu.io(path, ["write 0 4M", "write 8M 4M"])
    told: list[tuple[int, int]] = []
    check(path, progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (256, 256)


def test_the_command_exits_as_qemu_img_does(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patch = Patch(image)
    assert main(["disk", "check", str(image)]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "  clean"
    host = patch.word(patch.l2_at(1)) & OFFSET
    patch.set_refcount(host, 2)
    patch.set_word(patch.l2_at(1), host)
    assert main(["disk", "check", str(image)]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(
        "  leak: a refcount is higher than what refers to it (host offset 0x"
    )
    assert lines[2] == "  1 leaks, 0 corruptions"
    patch.set_refcount(host, 0)
    assert main(["disk", "check", "--json", "--chain", str(image)]) == 2
    (said,) = json.loads(capsys.readouterr().out)
    assert (said["leaks"], said["corruptions"]) == (0, 1)
    assert said["findings"][0]["host_offset"] == host
    assert main(["disk", "check", "--most", "0", "--repair", "all", str(image)]) == 0
    assert "  repaired: 0 leaks, 1 corruptions" in capsys.readouterr().out
    qemu.check(image)
    patch.write(0, b"x")
    assert main(["disk", "check", str(image)]) == 1
    assert capsys.readouterr().err.startswith(f"hatchway disk: {image} is no qcow2 file")


def test_on_a_terminal_the_bar_goes_there_and_the_findings_to_a_pipe(image: Path) -> None:
    top = qemu.create(image.with_name("top.qcow2"), None, image)
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-m", "hatchway.cli", "disk", "check", "--chain", top]
        environment = {**os.environ, "TERM": "xterm"}
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=theirs, env=environment, timeout=50, check=True
        )
        assert b"following tables" in os.read(ours, 1 << 16)
    finally:
        os.close(ours)
        os.close(theirs)
    lines = done.stdout.decode().splitlines()
    assert [line for line in lines if not line.startswith("  ")] == [f"{top}:", f"{image}:"]
