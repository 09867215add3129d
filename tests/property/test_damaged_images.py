"""Whatever was damaged in an image, a check says what QEMU says, and a repair harms nothing."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from hatchway.disk import ImageError, Report, check
from hatchway.disk.checking.findings import FindingKind
from tests.real import qemu
from tests.real.damage import Patch, verdict_of_qemu

pytestmark = [pytest.mark.real, qemu.needs_qemu, pytest.mark.timeout(300)]

KIB = 1024
# What QEMU does not look for, or not everywhere.
OURS: set[FindingKind] = {"overlap", "reserved bits", "contradiction", "past the end"}
KINDS = {
    "small clusters": {"cluster_size": 512, "refcount_bits": 8},
    "subclusters": {"cluster_size": 16 * KIB, "extended_l2": "on"},
    "narrow refcounts": {"cluster_size": 1024, "refcount_bits": 2},
    "version 2": {"cluster_size": 512, "compat": "0.10"},
    "plain": {"cluster_size": 4096, "refcount_bits": 1},
}
ENTRIES = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(0, 600).map(lambda cluster: cluster * 512),
    st.integers(0, 600).map(lambda cluster: 1 << 63 | cluster * 512),
    st.integers(0, 600 * 512).map(lambda offset: 1 << 62 | offset),
    st.sampled_from([0, 1, 1 << 63, 1 << 40, 2**64 - 1]),
)
DAMAGE = st.one_of(
    st.tuples(st.just("entry"), st.integers(0, 2**16), ENTRIES),
    st.tuples(st.just("bit"), st.integers(0, 2**16), st.integers(0, 63)),
    st.tuples(st.just("header"), st.integers(4, 14), ENTRIES),
    st.tuples(st.just("cut"), st.integers(0, 100), st.just(0)),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sound images, which have all that refers to clusters."""
    folder = tmp_path_factory.mktemp("sound")
    for kind, options in KINDS.items():
        path = qemu.create(folder / f"{kind}.qcow2", 256 * KIB, **options)
        qemu.io(path, ["write -P 1 0 64k", "write -z 24k 9k", "write -c -P 4 128k 32k"])
        if kind not in ("version 2", "plain"):
            qemu.img("bitmap", "--add", "-g", "512", path, "one")
        if kind not in ("plain", "narrow refcounts"):  # which are too narrow for it
            qemu.img("snapshot", "-c", "before", path)
        qemu.io(path, ["write -P 2 32k 16k", "write -P 3 200k 1k"])
        qemu.check(path)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def tables_of(path: Path) -> list[int]:
    """Where the words of the tables lie that refer to something."""
    patch = Patch(path)
    starts = [(patch.l1_offset, patch.l1_size), (patch.table_offset, 4)]
    words = patch.cluster_size // 8
    starts += [(patch.word(patch.l1_offset + rank * 8) & 0xFFFFFE00, words) for rank in range(2)]
    starts += [(patch.word(patch.table_offset) & 0xFFFFFE00, words)]
    (num_snapshots, snapshots_at) = struct.unpack(">IQ", patch.read(60, 12))
    if num_snapshots:
        starts += [(snapshots_at, 8), (patch.word(snapshots_at), patch.l1_size)]
    raw = patch.read(0, patch.cluster_size)
    if b"\x23\x85\x28\x75" in raw:
        at = raw.index(b"\x23\x85\x28\x75") + 24
        directory = int.from_bytes(raw[at : at + 8], "big")
        starts += [(directory, 3), (patch.word(directory), 2)]
    return [start + rank * 8 for start, count in starts for rank in range(count)]


def damaged(path: Path, damage: list[tuple[str, int, int]]) -> None:
    places = tables_of(path)
    patch = Patch(path)
    for kind, at, value in damage:
        if kind == "entry":
            patch.set_word(places[at % len(places)], value)
        elif kind == "bit":
            place = places[at % len(places)]
            patch.set_word(place, patch.word(place) ^ 1 << value)
        elif kind == "header":
            patch.set_word(at * 8, value)
        else:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size * (100 - at) // 100)


def checked(path: Path) -> Report | None:
    try:
        return check(path, most_findings=100_000)
    except ImageError as error:
        assert str(path) in str(error)  # noqa: PT017
        return None


def contents(path: Path) -> bytes | None:
    try:
        return qemu.contents(path)
    except AssertionError:  # it cannot be read
        return None


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=150)
@given(kind=st.sampled_from(list(KINDS)), damage=st.lists(DAMAGE, min_size=1, max_size=3))
def test_a_check_says_what_qemu_says(
    kind: str, damage: list[tuple[str, int, int]], images: Path, folder: Path
) -> None:
    path = folder / "one.qcow2"
    path.write_bytes((images / f"{kind}.qcow2").read_bytes())
    damaged(path, damage)
    status, said = verdict_of_qemu(path)
    report = checked(path)
    event(f"QEMU exits with {status}")
    if report is None:
        # What lies past the end of a file that was cut reads as zeros to QEMU, an L1 table too.
        assert status in (1, 2) or "cut" in [one[0] for one in damage]
        return
    more = {finding.kind for finding in report.findings} & OURS
    if status == 2:
        assert report.corruptions
    elif status in (0, 3) and not more:
        assert report.corruptions == 0
        assert report.leaks == said.get("leaks", 0)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=80)
@given(
    kind=st.sampled_from(list(KINDS)),
    damage=st.lists(DAMAGE, min_size=1, max_size=3),
    repair=st.sampled_from(["leaks", "all"]),
)
def test_a_repair_harms_nothing(
    kind: str,
    damage: list[tuple[str, int, int]],
    repair: str,
    images: Path,
    folder: Path,
) -> None:
    path = folder / "two.qcow2"
    path.write_bytes((images / f"{kind}.qcow2").read_bytes())
    damaged(path, damage)
    held, before, theirs = contents(path), checked(path), verdict_of_qemu(path)
    try:
        after = check(path, repair=repair)  # type: ignore[arg-type]
    except ImageError:
        assert before is None or contents(path) == held
        return
    assert before is not None
    assert contents(path) == held
    status = verdict_of_qemu(path).status
    if all(finding.kind != "overlap" for finding in before.findings):  # flags are left there
        assert after.corruptions <= before.corruptions
    if after.is_clean:
        assert status == 0 or theirs.status == 1
    if theirs.status in (0, 2, 3):
        severity = [0, 3, 2]
        assert severity.index(status) <= severity.index(theirs.status)
    event(f"clean after {repair}: {after.is_clean}")
