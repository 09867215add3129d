"""No bitmap claims to hold and misses a write, whatever fails and wherever a writer is cut off."""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hatchway.disk import Chain, ImageError, check
from tests.fault.cuts import SECTOR, fail_at
from tests.fault.test_cut_writes import SCRIPT, Workload, assert_checked
from tests.fault.test_failed_writes import run_failing
from tests.real import bitmaps, qemu
from tests.real.layers import writing

pytestmark = [pytest.mark.fault, pytest.mark.real, qemu.needs_qemu, pytest.mark.timeout(300)]

KIB = 1024
KINDS: list[dict[str, Any]] = [
    {"cluster_size": 1024, "refcount_bits": 64},
    {"cluster_size": 16384, "extended_l2": "on"},
    {"cluster_size": 4096},
]
NAMES = {"one": 512, "two": 4096}
# How short the disk becomes in the script: what lay past that, and is zeros now, is not dirty.
LEAST = min(size for name, size, _ in SCRIPT if name == "resize")


def with_bitmaps(directory: Path, kind: dict[str, Any]) -> Workload:
    (directory / "left").mkdir(parents=True)
    workload = Workload(directory, kind)
    qemu.raw(directory / "left" / "base.raw", workload.base.read_bytes())
    for name, granularity in NAMES.items():
        bitmaps.add(workload.path, name, granularity)
    bitmaps.add(workload.path, "off", 512, "--disable")
    return workload


def put(workload: Workload, files: dict[str, bytes]) -> Path:
    left = workload.path.parent / "left"
    for name, content in files.items():
        (left / name).write_bytes(content)
    return left / workload.path.name


def held(path: Path, before: bytes) -> set[str]:
    """The bitmaps that hold; of them none misses what changed."""
    with Chain(path, lock=False) as chain:
        found = chain.read_at(0, chain.size)
    if found != before:
        before = before[:LEAST].ljust(len(found), b"\0")
    sectors = [np.frombuffer(one, np.uint8).reshape(-1, SECTOR) for one in (before, found)]
    changed = np.flatnonzero((sectors[0] != sectors[1]).any(1)) * SECTOR
    holding = set()
    for name, one in bitmaps.stored(path.read_bytes()).items():
        if not one.flags & bitmaps.IN_USE:
            holding.add(name)
            assert name == "off" or all(map(one.is_set, changed.tolist())), name
    report = check(path, lock=False)
    assert not report.corruptions, report.findings
    return holding


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_cut_at_any_write_leaves_no_bitmap_that_misses_one(
    kind: dict[str, Any], tmp_path: Path
) -> None:
    workload = with_bitmaps(tmp_path, kind)
    before = bytes(workload.content)
    # At first some clusters are written to in place, which nothing else has to wait for.
    size = kind["cluster_size"]
    workload.run([("write", (size + at, 10), 3) for at in range(0, size, size // 10)] + SCRIPT)
    cuts = list(workload.recorder.cuts(random.Random(str(kind)), 1))
    seen = []
    for number, (_, files) in enumerate(cuts):
        path = put(workload, files)
        seen.append(held(path, before))
        if number % 10 == 0 or number > len(cuts) - 3:
            assert_checked(path)
    # In use from the first write on, all from the first change of size on, and stored at the end.
    assert {"off"} in seen
    assert set() in seen
    assert seen[-1] == {"one", "two", "off"}


@pytest.mark.parametrize("what", ["write", "sync"])
def test_a_failure_leaves_no_bitmap_that_misses_a_write(what: str, tmp_path: Path) -> None:
    for nth in (1, 2, 5):
        workload = with_bitmaps(tmp_path / str(nth), KINDS[0])
        before = bytes(workload.content)
        assert run_failing(workload, what, nth)
        *_, (_, files) = workload.recorder.cuts(random.Random(nth), 1)
        held(put(workload, files), before)
    # Those of closing, the last first.
    workload = with_bitmaps(tmp_path / "none", KINDS[0])
    assert not run_failing(workload, what, 1 << 30)
    is_sync = what == "sync"
    num_written = sum(is_sync == (not event.sectors) for event in workload.recorder.events)
    for last in range(6):
        workload = with_bitmaps(tmp_path / f"last {last}", KINDS[0])
        before = bytes(workload.content)
        assert run_failing(workload, what, num_written - last)
        *_, (_, files) = workload.recorder.cuts(random.Random(last), 1)
        held(put(workload, files), before)


def test_a_full_disk_loses_the_bitmaps_and_no_data(tmp_path: Path) -> None:
    workload = with_bitmaps(tmp_path, KINDS[0])
    before = bytes(workload.content)
    with pytest.raises(ImageError, match="write top"):
        run_to_a_full_disk(workload)
    *_, (_, files) = workload.recorder.cuts(random.Random(1), 1)
    path = put(workload, files)
    assert held(path, before) == {"off"}
    assert_checked(path)


def run_to_a_full_disk(workload: Workload) -> None:
    with writing(workload.path, opened=workload.recorder.opened) as layer:
        layer.write(0, b"\1" * 5000)
        layer.flush()
        workload.recorder.refuse = fail_at(1, errno.ENOSPC, "write")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = qemu.create(tmp_path_factory.mktemp("sound") / "one.qcow2", 64 * KIB, cluster_size=1024)
    bitmaps.add(path, "one", 512)
    qemu.io(path, ["write 0 10k"])
    bitmaps.add(path, "two", 4096)
    return path


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(data=st.data())
def test_damaged_bitmaps_are_no_more_than_an_error(sound: Path, data: st.DataObject) -> None:
    content = bytearray(sound.read_bytes())
    found = bitmaps.stored(content)
    tables = [int.from_bytes(content[one.at : one.at + 8], "big") for one in found.values()]
    extension = content.index((0x23852875).to_bytes(4, "big"))
    places = [*tables, extension, extension + 8, *(one.at for one in found.values())]
    clusters = st.integers(0, len(content) // 1024).map(lambda number: number * 1024)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(places))
        if data.draw(st.booleans()):
            content[at + data.draw(st.integers(0, 31))] = data.draw(st.integers(0, 255))
        else:
            content[at : at + 8] = data.draw(clusters).to_bytes(8, "big")
    path = sound.with_name("damaged.qcow2")
    path.write_bytes(content)
    try:
        with Chain(path, writable=True, cache_bytes=1 << 16) as chain:
            chain.write_at(20 * KIB, b"\1" * 5000)
            chain.resize(128 * KIB)
    except ImageError:
        return
    with Chain(path) as chain:
        assert chain.read_at(20 * KIB, 5000) == b"\1" * 5000
