"""A cut, a kill or a failure while an open chain goes on in an overlay loses nothing flushed."""

from __future__ import annotations

import errno
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hatchway.disk import Chain, ImageWriteError, kernel, writes
from hatchway.disk.active import OpenFile
from tests.fault.cuts import RecordedFile, Recorder, fail_at
from tests.fault.references import counted_too_low
from tests.fault.test_cut_writes import SIZE, Workload, assert_checked
from tests.real import qemu

pytestmark = [pytest.mark.fault, pytest.mark.real, qemu.needs_qemu, pytest.mark.timeout(300)]

KINDS: list[dict[str, Any]] = [
    {"cluster_size": 512},
    {"cluster_size": 16384, "extended_l2": "on"},
    {"cluster_size": 2048, "data_file": "data.bin"},
]
SCRIPT: list[tuple[str, Any, Any]] = [
    ("write", (10_000, 40_000), 1),
    ("snapshot", 1, None),
    ("write", (20_000, 30_000), 2),
    ("flush", None, None),
    ("zero", (4096, 20_000), True),
    ("write", (10_000, 300), 3),
    ("snapshot", 2, None),
    ("snapshot", 3, None),
    ("write", (11_000, 50_000), 4),
    ("resize", 150 * 512, None),
    ("write", (0, 3000), 5),
]


class MirroredFile(RecordedFile):
    """What is recorded is done to the file as well: its chain reads it by a descriptor."""

    def __init__(self, path: Path, recorder: Recorder) -> None:
        super().__init__(path, recorder)
        self._file = OpenFile(path, lock=False)

    @property
    def fd(self) -> int:
        return self._file.fd

    def pwrite(self, data: Any, offset: int) -> None:
        super().pwrite(data, offset)
        self._file.pwrite(data, offset)

    def truncate(self, num_bytes: int) -> None:
        super().truncate(num_bytes)
        self._file.truncate(num_bytes)

    def close(self) -> None:
        self._file.close()


class LiveWorkload(Workload):
    """A script that one open chain runs through, snapshots of it included.

    Attributes:
        tops: The active images: path, how far the script was when it was there, and what the
            disk held when it was frozen, and how far the script was then.
    """

    def __init__(self, directory: Path, kind: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
        super().__init__(directory, kind)
        self.directory = directory
        self.tops: list[tuple[str, int]] = []
        self.frozen: list[tuple[int, bytes]] = []
        # Python does all, so that nothing is written past the recorder.
        patch.setattr(kernel, "_MODULE", None)
        patch.setattr(writes, "open_to_write", self.opened)

    def opened(self, path: Path, lock: bool = True) -> MirroredFile:
        file = MirroredFile(path, self.recorder)
        self.recorder.before[path.name] = path.read_bytes()
        if path.suffix == ".qcow2":
            self.begin()
            self.tops.append((path.name, self.recorder.num_marks))
        return file

    def run(self, operations: list[tuple[str, Any, Any]]) -> None:
        with Chain(self.path, writable=True, lock=False, cache_bytes=0) as chain:
            for name, first, second in operations:
                if name == "snapshot":
                    self.write_in_the_middle(chain, first)
                    self.begin()
                    chain.snapshot(self.directory / f"{first}.qcow2")
                    self.end(is_flush=True)
                    del chain._writes.flush  # type: ignore[union-attr]
                    self.frozen.append((self.recorder.num_marks, bytes(self.content)))
                else:
                    assert chain._writes is not None
                    self.step(chain._writes.layer, name, first, second)
                    chain._reshaped()
            self.begin()
        self.end(is_flush=True)

    def write_in_the_middle(self, chain: Chain, value: int) -> None:
        """Have another thread, as it were, write after the first of two flushes."""
        written = chain._writes
        assert written is not None
        flush, layer = written.flush, written.layer

        def flush_and_write() -> None:
            flush()
            if value != 2:
                self.step(layer, "write", (60_000, 9000), 10 + value)
                self.begin()

        written.flush = flush_and_write  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_cut_at_any_write_leaves_the_old_chain_or_the_new_one(
    kind: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "left"
    left.mkdir()
    with monkeypatch.context() as patched:
        workload = LiveWorkload(tmp_path, kind, patched)
        workload.run(SCRIPT)
    assert len(workload.tops) == 4
    if "data_file" not in kind:
        assert qemu.contents(tmp_path / "3.qcow2") == workload.content
    qemu.raw(left / "base.raw", workload.base.read_bytes())
    cuts = list(workload.recorder.cuts(random.Random(17), 2))
    num_between = 0
    for number, (mark, files) in enumerate(cuts):
        for name, content in files.items():
            (left / name).write_bytes(content)
        there = [name for name, since in workload.tops if since <= mark]
        for rank, name in enumerate(there):
            with Chain(left / name, lock=False) as chain:
                found = chain.read_at(0, chain.size)
                assert not counted_too_low(chain.images[-1]), f"cut {number}"
            if rank < len(workload.frozen) and workload.frozen[rank][0] <= mark:
                assert found == workload.frozen[rank][1], f"cut {number}, step {mark}"
            else:
                assert workload.is_allowed(found, mark), f"cut {number}, step {mark}"
                num_between += rank < len(there) - 1
        if number % 25 == 0 and "data.bin" not in files:
            for name in there:
                assert_checked(left / name)
            assert qemu.contents(left / there[-1]) == found
    assert num_between  # the overlay was there, and not yet written to


@pytest.mark.parametrize("what", ["write top.qcow2", "sync top.qcow2"])
def test_a_failure_to_flush_leaves_the_chain_as_it_was(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = LiveWorkload(tmp_path, {"cluster_size": 512}, monkeypatch)
    recorder, nth, has_failed = workload.recorder, 0, True
    content = b"\5" * 30_208
    with Chain(workload.path, lock=False) as before:
        expected = content + before.read_at(30_208, SIZE)
    while has_failed:
        nth += 1
        with Chain(workload.path, writable=True, lock=False) as chain:
            chain.discard_at(0, 30_208)
            chain.flush()
            chain.write_at(0, content)
            recorder.refuse = fail_at(nth, errno.ENOSPC, what)
            try:
                chain.snapshot(tmp_path / "1.qcow2")
                has_failed = False
            except ImageWriteError:
                recorder.refuse = lambda what: None
                assert not (tmp_path / "1.qcow2").exists()
                assert [image.path.name for image in chain.images] == ["base.raw", "top.qcow2"]
                assert chain.read_at(0, SIZE) == expected
                if what.startswith("sync"):
                    # What the system may have forgotten is not taken for written.
                    with pytest.raises(ImageWriteError, match="not written to any more"):
                        chain.write_at(0, b"no")
                    chain._writes, failed = None, chain._writes
                    with pytest.raises(ImageWriteError):
                        failed.close()  # type: ignore[union-attr]
                else:
                    chain.write_at(0, content)
                    chain.flush()
    assert nth > 2
    assert qemu.contents(tmp_path / "1.qcow2") == expected
    assert qemu.contents(workload.path) == expected


KILLED = """
import os, signal, sys
from hatchway.disk import Chain, kernel
from hatchway.disk.active import storage
from hatchway.disk.index import appending
left, directory = int(sys.argv[1]), sys.argv[2]
def counted(does):
    def one(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return does(*arguments, **options)
    return one
for owner, name in (
    (storage.OpenFile, "pwrite"), (storage.OpenFile, "sync"), (storage.OpenFile, "close"),
    (kernel.KernelLeaves, "replace_top"), (appending, "write_all"), (os, "link"),
    (os, "unlink"), (os, "replace"),
):
    setattr(owner, name, counted(getattr(owner, name)))
with Chain(f"{directory}/0.qcow2", writable=True) as chain:
    for number in range(1, 5):
        chain.write_at(number * 3000, bytes([number]) * 9000)
        chain.flush()
        print("flushed", flush=True)
        chain.snapshot(f"{directory}/{number}.qcow2", index=True)
        print("frozen", flush=True)
"""


def test_a_kill_leaves_the_old_chain_or_the_new_one(tmp_path: Path) -> None:
    states = [bytearray(SIZE)]
    for number in range(1, 5):
        states.append(states[-1][:])
        states[-1][number * 3000 : number * 3000 + 9000] = bytes([number]) * 9000
    at, status = 1, -9
    while status == -9:
        directory = tmp_path / str(at)
        directory.mkdir()
        qemu.create(directory / "0.qcow2", SIZE, cluster_size=4096)
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(at), str(directory)],
            check=False,
            capture_output=True,
            timeout=60,
        )
        status = done.returncode
        assert status in (-9, 0), done.stderr.decode()
        num_flushed, num_frozen = done.stdout.count(b"flushed"), done.stdout.count(b"frozen")
        tops = sorted(directory.glob("[0-9].qcow2"))
        assert len(tops) in (num_frozen + 1, num_frozen + 2)
        for number, top in enumerate(tops):
            assert_checked(top)
            with Chain(top) as chain:
                found = chain.read_at(0, SIZE)
            if number < num_frozen:
                assert found == states[number + 1], (at, number)
        assert found in states[num_flushed : num_flushed + 2], at
        with Chain(tops[-1], writable=True) as chain:
            chain.write_at(0, b"on")
            chain.snapshot(directory / "last.qcow2")
        assert qemu.contents(directory / "last.qcow2") == b"on" + found[2:]
        at = at * 3 // 2 + 1
    assert at > 100
