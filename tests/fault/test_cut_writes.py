"""Whenever a host is cut off from its disk, an active layer is sound and holds what was flushed."""

from __future__ import annotations

import random
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hatchway.disk import Chain
from hatchway.disk.active import ActiveLayer, guest
from tests.fault.cuts import SECTOR, Recorder
from tests.fault.references import counted_too_low
from tests.real import qemu
from tests.real.layers import writing

pytestmark = [pytest.mark.fault, pytest.mark.real, qemu.needs_qemu, pytest.mark.timeout(300)]

KIB = 1024
SIZE = 96 * KIB
BELOW = 70 * KIB
KINDS: list[dict[str, Any]] = [
    {"cluster_size": 512},
    {"cluster_size": 512, "refcount_bits": 64},
    {"cluster_size": 4096},
    {"cluster_size": 4096, "refcount_bits": 1},
    {"cluster_size": 16384, "extended_l2": "on"},
    {"cluster_size": 1024, "compat": "0.10"},
    {"cluster_size": 2048, "data_file": "data.bin"},
]
PLACES = st.tuples(st.integers(0, SIZE - 1), st.integers(1, 9000))
OPERATIONS = st.one_of(
    st.tuples(st.just("write"), PLACES, st.integers(1, 255)),
    st.tuples(st.just("write"), PLACES, st.integers(1, 255)),
    st.tuples(st.just("zero"), PLACES, st.booleans()),
    st.tuples(st.just("discard"), PLACES, st.none()),
    st.tuples(st.just("flush"), st.none(), st.none()),
    st.tuples(st.just("resize"), st.integers(60, 400).map(lambda n: n * 512), st.none()),
)
SCRIPT: list[tuple[str, Any, Any]] = [
    ("write", (0, 40_000), 1),
    ("flush", None, None),
    ("write", (20_000, 30_000), 2),
    ("zero", (4096, 20_000), True),
    ("write", (10_000, 300), 3),
    ("flush", None, None),
    ("discard", (0, 65_536), None),
    ("flush", None, None),
    ("write", (30_000, 60_000), 4),
    ("resize", 300 * 512, None),
    ("write", (90_000, 50_000), 5),
    ("flush", None, None),
    ("resize", 50 * 512, None),
    ("write", (0, 25_000), 6),
    ("resize", 400 * 512, None),
    ("zero", (98_304, 98_304), False),  # tables of zeros, at clusters of 512 bytes
    ("zero", (600, 700), True),
    ("write", (100_000, 90_000), 7),
]


class Workload:
    """What is done to a layer, and what its disk may hold after each step."""

    def __init__(self, directory: Path, kind: dict[str, Any], filled: int = 0) -> None:
        self.path = directory / "top.qcow2"
        self.base = qemu.raw(directory / "base.raw", random.Random(1).randbytes(BELOW))
        self.recorder = Recorder()
        if "data_file" in kind:
            kind = {**kind, "data_file": directory / kind["data_file"]}
        qemu.create(self.path, max(SIZE, 2 * filled), self.base, **kind)
        size = kind["cluster_size"]
        qemu.io(self.path, [f"write -P 9 {size} {size}"])
        self.content = bytearray(self.base.read_bytes().ljust(max(SIZE, 2 * filled), b"\0"))
        self.content[size : 2 * size] = b"\x09" * size
        if filled:
            qemu.io(self.path, [f"write -P 7 {BELOW} {filled - BELOW}"])
            self.content[BELOW:filled] = b"\x07" * (filled - BELOW)
        if not {"data_file", "refcount_bits", "compat"} & set(kind):
            qemu.img("snapshot", "-c", "before", self.path)
        if "data_file" not in kind:
            qemu.io(self.path, [f"write -c -P 8 {at * size} {size}" for at in (2, 3, 4)])
            self.content[2 * size : 5 * size] = b"\x08" * (3 * size)
        if "data_file" in kind:
            # What a cut leaves lies in another directory. (QEMU begins at the working one.)
            qemu.img("amend", "-f", "qcow2", "-o", "data_file=data.bin", self.path)
        # The states since the last flush that returned, by how far it was.
        self.flushed = 0
        self.states = [bytes(self.content)]
        self.since = [0]

    def run(self, operations: list[tuple[str, Any, Any]]) -> None:
        with writing(self.path, opened=self.recorder.opened, cache_bytes=0) as layer:
            for operation in operations:
                self.step(layer, *operation)
            self.begin()
        self.end(is_flush=True)

    def step(self, layer: ActiveLayer, name: str, first: Any, second: Any) -> None:
        start, end = 0, 0
        if isinstance(first, tuple):
            start, end = (min(at, layer.size) for at in (first[0], sum(first)))
        if name == "write":
            self.content[start:end] = bytes([second]) * (end - start)
        elif name == "zero":
            self.content[start:end] = bytes(end - start)
        elif name == "discard":
            assert self.path is not None
            size = layer._guest.cluster_size
            begin, stop = -(-start // size) * size, end if end == layer.size else end - end % size
            if begin < stop and layer._guest.header.version == 3:
                self.content[begin:stop] = bytes(stop - begin)
        elif name == "resize":
            del self.content[first:]
            self.content.extend(bytes(first - len(self.content)))
        self.begin()
        if name == "write":
            layer.write(start, bytes([second]) * (end - start))
        elif name == "zero":
            layer.write_zeroes(start, end - start, may_unmap=second)
        elif name == "discard":
            layer.discard(start, end - start)
        elif name == "resize":
            layer.resize(first)
        else:
            layer.flush()
        self.end(is_flush=name == "flush" or (name == "resize"))

    def begin(self) -> None:
        """From now on the disk may hold what it is to hold after the step."""
        self.states.append(bytes(self.content))
        self.since.append(self.flushed)
        self.recorder.mark()

    def end(self, *, is_flush: bool) -> None:
        if is_flush:
            self.flushed = len(self.states) - 1
        self.states.append(bytes(self.content))
        self.since.append(self.flushed)
        self.recorder.mark()

    def is_allowed(self, found: bytes, mark: int) -> bool:
        states = self.states[self.since[mark] : mark + 1]
        if len(found) not in map(len, states):
            return False
        # What a shorter disk gave up may be gone.
        padded = [state[: len(found)].ljust(len(found), b"\0") for state in states]
        sectors = [np.frombuffer(state, np.uint8).reshape(-1, SECTOR) for state in padded]
        ours = np.frombuffer(found, np.uint8).reshape(-1, SECTOR)
        return bool(np.any([(ours == one).all(1) for one in sectors], axis=0).all())


def assert_survives(
    workload: Workload, seed: int, num_each: int, num_checked: int, directory: Path
) -> None:
    place = random.Random(seed)
    qemu.raw(directory / "base.raw", workload.base.read_bytes())
    path = directory / "top.qcow2"
    cuts = list(workload.recorder.cuts(place, num_each))
    checked = set(place.sample(range(len(cuts)), min(num_checked, len(cuts))))
    for number, (mark, files) in enumerate(cuts):
        for name, content in files.items():
            (directory / name).write_bytes(content)
        with Chain(path, lock=False, allow_backing=True) as chain:
            found = chain.read_at(0, chain.size)
            assert workload.is_allowed(found, mark), f"seed {seed}, cut {number}, step {mark}"
            assert not counted_too_low(chain.images[-1]), f"seed {seed}, cut {number}"
        if number in checked:
            assert_checked(path)
            if "data.bin" not in files:
                assert qemu.contents(path) == found


def assert_checked(path: Path) -> None:
    """QEMU finds leaked clusters, or nothing."""
    done = subprocess.run(
        ["qemu-img", "check", "-f", "qcow2", path.name],
        check=False,
        capture_output=True,
        timeout=50,
        cwd=path.parent,
    )
    assert done.returncode in (0, 3), done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_cut_at_any_write_of_a_script(kind: dict[str, Any], tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.mkdir()
    workload = Workload(tmp_path, kind)
    workload.run(SCRIPT)
    assert_survives(workload, 7, 2, 15, left)


def test_a_cut_where_room_is_used_again_without_a_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest, "_WORTH_A_COMMIT", 8 * KIB)
    left = tmp_path / "left"
    left.mkdir()
    workload = Workload(tmp_path, {"cluster_size": 4096})
    workload.run([step for step in SCRIPT if step[0] != "flush"])
    assert_survives(workload, 13, 2, 10, left)


def test_a_cut_while_the_refcount_table_grows(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.mkdir()
    # 64 entries of 64 refcounts each: 2 MiB.
    workload = Workload(tmp_path, {"cluster_size": 512, "refcount_bits": 64}, 1850 * KIB)
    workload.run([("write", (1800 * KIB, 250 * KIB), 1), ("write", (0, 5000), 2)])
    with Chain(workload.path, lock=False) as chain:
        header = chain.images[-1].header
    assert header is not None
    assert header.refcount_table_clusters == 1
    assert_survives(workload, 11, 1, 10, left)
    with Chain(left / "top.qcow2", lock=False) as chain:
        header = chain.images[-1].header
    assert header is not None
    assert header.refcount_table_clusters > 1


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=15)
@given(
    kind=st.sampled_from(KINDS),
    operations=st.lists(OPERATIONS, min_size=1, max_size=12),
    seed=st.integers(0, 1 << 32),
)
def test_a_cut_at_any_write(
    kind: dict[str, Any], operations: list[tuple[str, Any, Any]], seed: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        left = Path(directory) / "left"
        left.mkdir()
        workload = Workload(Path(directory), kind)
        workload.run(operations)
        assert_survives(workload, seed, 2, 3, left)
