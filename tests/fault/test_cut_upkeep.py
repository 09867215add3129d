"""A cut from the disk while a chain is kept up, at whatever write, leaves the chain's disk."""

from __future__ import annotations

import errno
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hatchway.disk import Chain, ImageWriteError, commit, merge, rebase, snapshot
from hatchway.disk import writes as chain_writes
from hatchway.disk.active import storage
from hatchway.disk.upkeep import opening
from tests.fault.cuts import Recorder
from tests.fault.references import counted_too_low
from tests.real import qemu

pytestmark = [pytest.mark.fault, pytest.mark.real, qemu.needs_qemu, pytest.mark.timeout(300)]

KIB = 1024
KINDS: list[dict[str, Any]] = [
    {"cluster_size": 512},
    {"cluster_size": 4096},
    {"cluster_size": 16384, "extended_l2": "on"},
    {"cluster_size": 1024, "compat": "0.10"},
]
DOES: dict[str, Callable[[Path], object]] = {
    "commit": lambda directory: commit(directory / "3.qcow2"),
    "commit into the base": lambda directory: commit(directory / "3.qcow2", into=0),
    "rebase": lambda directory: rebase(directory / "3.qcow2", directory / "1.qcow2"),
    "flatten": lambda directory: rebase(directory / "3.qcow2", None),
}


def chain(directory: Path, kind: dict[str, Any]) -> bytes:
    """A raw base and three layers of different sizes; what the disk holds."""
    base = qemu.raw(directory / "0.raw", random.Random(1).randbytes(60 * KIB))
    first = qemu.create(directory / "1.qcow2", 80 * KIB, base, **kind)
    qemu.io(first, ["write -P 1 10k 20k", "write -P 2 70k 10k"])
    second = qemu.create(directory / "2.qcow2", 50 * KIB, first, **kind)
    qemu.io(second, ["write -P 3 0 5k", "write -z 20k 8k"])
    third = qemu.create(directory / "3.qcow2", 96 * KIB, second, **kind)
    qemu.io(third, ["write -P 4 12k 9k", "write -z 40k 30k", "write -P 5 80k 3k"])
    return qemu.contents(third)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
@pytest.mark.parametrize("what", DOES)
def test_a_cut_changes_no_byte_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any], what: str
) -> None:
    content = chain(tmp_path, kind)
    recorder, place = Recorder(), random.Random(f"{kind} {what}")
    with monkeypatch.context() as patched:
        for module in (opening, chain_writes):
            patched.setattr(module, "open_to_write", lambda path, lock=True: recorder.opened(path))
        # What is recorded is in memory only, and has no descriptor.
        patched.setattr(opening, "_check_same", lambda file, image: None)
        DOES[what](tmp_path)
    cut = tmp_path / "cut"
    cut.mkdir()
    for path in tmp_path.glob("*.*"):
        shutil.copy(path, cut)
    cuts = list(recorder.cuts(place, 2))
    assert len(cuts) > 8
    for number, (_, files) in enumerate(cuts):
        for name, left in files.items():
            (cut / name).write_bytes(left)
        with Chain(cut / "3.qcow2") as left_chain:
            assert left_chain.read_at(0, left_chain.size) == content, number
            for image in left_chain.images[1:]:
                assert not counted_too_low(image), number
        if number % 20 == place.randrange(20):
            DOES[what](cut)
            assert qemu.contents(cut / "3.qcow2") == content
            with Chain(cut / "3.qcow2") as left_chain:
                assert left_chain.read_at(0, left_chain.size) == content, number


KILLED = """
import os, signal, sys
from hatchway.cli import main
from hatchway.disk.active import storage
left, write, sync = int(sys.argv[1]), storage.OpenFile.pwrite, storage.OpenFile.sync
def counted(does):
    def one(*arguments):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return does(*arguments)
    return one
storage.OpenFile.pwrite, storage.OpenFile.sync = counted(write), counted(sync)
sys.exit(main(["disk", *sys.argv[2:]]))
"""


@pytest.mark.parametrize(
    "command",
    [
        ["merge", "{}/3.qcow2", "1", "2", "--remove"],
        ["merge", "{}/3.qcow2", "0", "3", "--with-active"],
        ["commit", "{}/3.qcow2"],
        ["rebase", "{}/3.qcow2", "--flatten"],
        ["snapshot", "{}/3.qcow2", "{}/4.qcow2"],
    ],
    ids=" ".join,
)
def test_a_kill_changes_no_byte_of_the_disk(tmp_path: Path, command: list[str]) -> None:
    content = chain(tmp_path, {"cluster_size": 4096})
    listed = [part.format(tmp_path) for part in command]
    at, status = 1, -9
    while status == -9:
        status = subprocess.run(
            [sys.executable, "-c", KILLED, str(at), *listed], check=False, capture_output=True
        ).returncode
        with Chain(tmp_path / "3.qcow2") as left:
            assert left.read_at(0, left.size) == content
        at = at * 3 // 2 + 1
    assert status == 0
    assert qemu.contents(tmp_path / "3.qcow2") == content
    assert at > 3


@pytest.mark.parametrize("nth", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), ImageWriteError("no space", path=Path("new"), errno=errno.ENOSPC)],
    ids=["interrupted", "full"],
)
def test_a_merge_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int, error: BaseException
) -> None:
    content = chain(tmp_path, {"cluster_size": 4096})
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    write, left = storage.OpenFile.pwrite, nth

    def interrupt(self: storage.OpenFile, data: Any, offset: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise error
        write(self, data, offset)

    monkeypatch.setattr(storage.OpenFile, "pwrite", interrupt)
    with pytest.raises(type(error)):
        merge(tmp_path / "3.qcow2", 0, 2, remove=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    monkeypatch.undo()
    merge(tmp_path / "3.qcow2", 0, 2, remove=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.qcow2", "3.qcow2"]
    assert qemu.contents(tmp_path / "3.qcow2") == content


def test_a_snapshot_whose_index_cannot_be_made_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain(tmp_path, {"cluster_size": 4096})

    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr("hatchway.disk.upkeep.snapshotting.build", interrupt)
    with pytest.raises(KeyboardInterrupt):
        snapshot(tmp_path / "3.qcow2", tmp_path / "4.qcow2", index=True)
    assert sorted(tmp_path.iterdir()) == before
