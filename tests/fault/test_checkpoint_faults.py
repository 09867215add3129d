"""Checkpoints after kills, full disks and damage: whole steps, or an error that names them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hatchway.base import CheckpointError, DiskError
from hatchway.checkpoint import (
    DamagedCheckpointError,
    IncrementalSnapshot,
    layout,
    restore,
    restoring,
    retention,
    saving,
    steps_of,
)
from hatchway.checkpoint.directory import path_of
from hatchway.checkpoint.layout import Layout
from hatchway.disk import BackingFileError, Chain, ImageWriteError, merge
from hatchway.disk.active import OpenFile, creation

pytestmark = pytest.mark.fault

PAGE = 4096
NUM_PAGES = 300


def save_steps(directory: Path, num_steps: int) -> list[np.ndarray[Any, Any]]:
    array, held = np.zeros(NUM_PAGES * PAGE, np.uint8), []
    with IncrementalSnapshot({"a": array}, directory) as snapshot:
        for number in range(num_steps):
            array[number * 5 * PAGE :: 60 * PAGE] = number + 1
            snapshot.save(b"%d" % number)
            held.append(array.copy())
    return held


def restored(directory: Path, step: int | None = None) -> tuple[Any, np.ndarray[Any, Any]]:
    into = np.full(NUM_PAGES * PAGE, 255, np.uint8)
    return restore(directory, {"a": into}, step=step), into


@pytest.mark.parametrize("what", ["pwrite", "pwritev", "truncate", "sync"])
def test_a_full_disk_loses_nothing(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.zeros(NUM_PAGES * PAGE, np.uint8)

    def full(file: OpenFile, *_: Any) -> None:
        raise ImageWriteError("No space left on device", path=file.path, errno=errno.ENOSPC)

    with IncrementalSnapshot({"a": array}, tmp_path) as snapshot:
        for number in range(1, 4):
            array[number * PAGE] = number
            with monkeypatch.context() as patch:
                patch.setattr(OpenFile, what, full)
                with pytest.raises(ImageWriteError, match="No space"):
                    snapshot.save()
            assert len(list(tmp_path.iterdir())) == number - 1
            array[number * PAGE * 9] = number
            assert snapshot.save().is_full == (number == 1)
            assert np.array_equal(restored(tmp_path)[1], array)


SAVING = """
import sys, numpy as np
from hatchway.checkpoint import IncrementalSnapshot
array = np.zeros(300 * 4096, np.uint8)
with IncrementalSnapshot({"a": array}, sys.argv[1]) as snapshot:
    for number in range(10_000):
        array[number % 300 * 4096 + 8 :: 4096 * 7] = number % 256
        array[:8] = np.frombuffer(number.to_bytes(8, "little"), np.uint8)
        print(snapshot.save(number.to_bytes(8, "little")).step, flush=True)
"""


def test_a_kill_at_any_moment_leaves_whole_steps(tmp_path: Path) -> None:
    place = random.Random(5)
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVING, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process, process.stdout as said:
            lines = [next(said) for _ in range(place.randrange(2, 12))]
            process.send_signal(signal.SIGKILL)
            lines += said
        last = int(lines[-1])
        steps = steps_of(tmp_path)
        assert steps[-1] in (last, last + 1)
        found, array = restored(tmp_path)
        assert found.step == steps[-1]
        assert found.extra == array[:8].tobytes()
        number = int.from_bytes(found.extra, "little")
        assert (array[number % 300 * PAGE + 8 :: PAGE * 7] == number % 256).all()
    # What the kills left half-written goes when the next one begins.
    with IncrementalSnapshot({"a": array}, tmp_path):
        assert len(list(tmp_path.iterdir())) == len(steps)


def test_damage_anywhere_is_found_and_the_last_whole_step_comes_back(tmp_path: Path) -> None:
    held = save_steps(tmp_path / "whole", 3)
    place, num_found = random.Random(7), 0
    for _ in range(60):
        shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
        path = tmp_path / "damaged" / "step-00000002.qcow2"
        content = bytearray(path.read_bytes())
        at = place.randrange(len(content))
        content[at] ^= 1 << place.randrange(8)
        path.write_bytes(content[: at if place.random() < 0.2 else None])
        found, array = restored(tmp_path / "damaged")
        # A bit that nobody reads, as of a refcount, does no harm.
        assert found.step in (1, 2)
        assert np.array_equal(array, held[found.step])
        num_found += found.step == 1
        assert [step for step, _ in found.skipped] == [2] * (found.step == 1)
    assert num_found > 20


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    save_steps(tmp_path, 3)
    (tmp_path / "step-00000001.qcow2").unlink()
    found, _ = restored(tmp_path)
    assert found.step == 0
    assert "step-00000001.qcow2" in found.skipped[0][1]
    base = tmp_path / "step-00000000.qcow2"
    shutil.copy(base, tmp_path / "step-00000005.qcow2")
    with pytest.raises(CheckpointError, match="is step 0: it was renamed"):
        restored(tmp_path, 5)
    (tmp_path / "step-00000005.qcow2").unlink()
    base.write_bytes(base.read_bytes().replace(b"\1" + bytes(99), b"\3" + bytes(99)))
    with pytest.raises(DamagedCheckpointError, match=r"step-00000000\.qcow2") as caught:
        restored(tmp_path)
    assert caught.value.path == base
    with pytest.raises(CheckpointError, match="holds no step 7; it holds 0 to 2"):
        restored(tmp_path, 7)


def test_names_and_sizes_that_do_not_fit_are_named_before_anything_changes(tmp_path: Path) -> None:
    save_steps(tmp_path, 1)
    into = np.full(NUM_PAGES * PAGE, 255, np.uint8)
    with pytest.raises(CheckpointError, match="nothing named 'b'; it holds a"):
        restore(tmp_path, {"a": into, "b": into})
    with pytest.raises(CheckpointError, match=r"into\['a'\] has 4096 bytes"):
        restore(tmp_path, {"a": into[:PAGE]})
    with pytest.raises(TypeError, match=r"into\['a'\] is a list"):
        restore(tmp_path, {"a": [1]})
    assert (into == 255).all()
    with pytest.raises(CheckpointError, match="holds no steps"):
        restore(tmp_path.parent, {"a": into})
    with pytest.raises(CheckpointError, match="cannot be read"):
        restore(tmp_path / "nowhere", {"a": into})


def test_two_snapshots_do_not_share_a_directory(tmp_path: Path) -> None:
    array = np.zeros(PAGE, np.uint8)
    with IncrementalSnapshot({"a": array}, tmp_path) as snapshot:
        with pytest.raises(CheckpointError, match="is in use"):
            IncrementalSnapshot({"a": array}, tmp_path)
        snapshot.save()
    with pytest.raises(CheckpointError, match="is closed"):
        snapshot.save()
    with IncrementalSnapshot({"a": array}, tmp_path) as snapshot:
        assert snapshot.save()[:1] == (1,)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be used: "):
        IncrementalSnapshot({"a": array}, tmp_path / "file")
    with pytest.raises(ValueError, match="regions is empty"):
        IncrementalSnapshot({}, tmp_path)
    with pytest.raises(TypeError, match=r"regions\['a'\] is a list"):
        IncrementalSnapshot({"a": [1]}, tmp_path)


def test_old_steps_become_one_and_the_last_ones_stay(tmp_path: Path) -> None:
    array, held = np.zeros(NUM_PAGES * PAGE, np.uint8), []
    with IncrementalSnapshot({"a": array}, tmp_path, keep=3) as snapshot:
        for number in range(40):
            array[number * 5 * PAGE % array.size :: 60 * PAGE] = number + 1
            snapshot.save()
            held.append(array.copy())
            assert snapshot._retention is not None
            if number % 10 == 9 and (thread := snapshot._retention._thread) is not None:
                thread.join()
    steps = steps_of(tmp_path)
    assert 4 <= len(steps) < 20
    assert steps[-4:] == [36, 37, 38, 39]
    for step in steps:
        assert np.array_equal(restored(tmp_path, step)[1], held[step])


def test_a_merge_that_fails_is_told_and_one_that_is_cut_off_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.zeros(NUM_PAGES * PAGE, np.uint8)
    begun = threading.Event()

    def failing(*_: Any, progress: Any) -> None:
        raise ImageWriteError("no room", path=tmp_path, errno=errno.ENOSPC)

    def endless(*_: Any, progress: Any) -> None:
        begun.set()
        while True:
            progress(0, 1)

    with IncrementalSnapshot({"a": array}, tmp_path, keep=1) as snapshot:
        monkeypatch.setattr(retention, "merge", failing)
        for _ in range(4):
            snapshot.save()
        assert snapshot._retention is not None
        assert snapshot._retention._thread is not None
        snapshot._retention._thread.join()
        array[0] = 1
        with pytest.raises(ImageWriteError, match="no room"):
            snapshot.save()
        monkeypatch.setattr(retention, "merge", endless)
        assert 0 < snapshot.save().num_bytes <= 2 * PAGE
        assert begun.wait(30)
    assert len(steps_of(tmp_path)) == 5
    with pytest.raises(ValueError, match="keep is 0"):
        IncrementalSnapshot({"a": array}, tmp_path, keep=0)


def test_an_interrupted_save_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.zeros(NUM_PAGES * PAGE, np.uint8)

    def interrupted(*arguments: Any, **named: Any) -> None:
        if named:
            creation.create_filled(*arguments, **named)
        raise KeyboardInterrupt

    with IncrementalSnapshot({"a": array}, tmp_path) as snapshot:
        snapshot.save()
        cuts = (Layout, "clusters_of"), (creation, "sync_directory"), (saving, "create_filled")
        for number, (where, what) in enumerate(cuts):
            array[number * PAGE * 5] = 1 + number
            with monkeypatch.context() as patch:
                patch.setattr(where, what, interrupted)
                with pytest.raises(KeyboardInterrupt):
                    snapshot.save()
            assert snapshot.save().step == number + 1
            assert np.array_equal(restored(tmp_path)[1], array)


def test_what_could_not_be_read_back_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.zeros(PAGE, np.uint8)
    monkeypatch.setattr(layout, "_MOST_BYTES", 2 * PAGE)
    with IncrementalSnapshot({"a": array}, tmp_path) as snapshot:
        with pytest.raises(TypeError, match="extra is a str; it may be bytes"):
            snapshot.save("text")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"extra has 8192 bytes; 81\d\d are possible"):
            snapshot.save(bytes(2 * PAGE))
        snapshot.save(bytearray(b"x" * PAGE))
    assert restore(tmp_path, {"a": array}).extra == b"x" * PAGE


def test_what_cannot_be_restored_into_is_named(tmp_path: Path) -> None:
    save_steps(tmp_path, 1)
    constant = np.frombuffer(bytes(NUM_PAGES * PAGE), np.uint8)
    with pytest.raises(ValueError, match=r"into\['a'\] is an array that cannot be written to"):
        restore(tmp_path, {"a": constant})
    assert not constant.any()
    with pytest.raises(ValueError, match=r"into\['a'\] is memory from 0x1000 .* not mapped"):
        restore(tmp_path, {"a": (PAGE, NUM_PAGES * PAGE)})


def test_a_restore_that_a_merge_overtakes_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = save_steps(tmp_path, 5)
    read, top = restoring.read_description, path_of(tmp_path, 4)

    def overtaken(chain: Chain, path: Path) -> Any:
        monkeypatch.setattr(restoring, "read_description", read)
        merge(top, 0, path_of(tmp_path, 3), remove=True)
        # What a chain says that was being opened when the files below it went away.
        raise BackingFileError("step-00000002.qcow2 cannot be opened", path=path)

    monkeypatch.setattr(restoring, "read_description", overtaken)
    found, array = restored(tmp_path)
    assert found[::2] == (4, [])
    assert steps_of(tmp_path) == [3, 4]
    assert np.array_equal(array, held[4])


def test_a_step_that_must_not_be_read_is_no_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(tmp_path, 2)
    os_open = os.open

    def forbidden(path: Any, *arguments: Any, **named: Any) -> int:
        if str(path).endswith("step-00000001.qcow2"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return os_open(path, *arguments, **named)

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(DiskError, match="Permission denied"):
        restored(tmp_path)
    assert restored(tmp_path, 0)[0].step == 0


def test_a_directory_is_free_when_it_is_closed_whatever_was_forked(tmp_path: Path) -> None:
    array = np.zeros(PAGE, np.uint8)
    snapshot = IncrementalSnapshot({"a": array}, tmp_path)
    goes_on, ends = os.pipe()
    child = os.fork()
    if not child:
        snapshot.close()  # lets go of the child's own share only
        os.write(ends, b"closed")
        time.sleep(60)
        os._exit(0)
    try:
        os.read(goes_on, 6)
        with pytest.raises(CheckpointError, match="is in use"):
            IncrementalSnapshot({"a": array}, tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(goes_on)
        os.close(ends)
    bystander = os.fork()
    if not bystander:
        time.sleep(60)
        os._exit(0)
    try:
        snapshot.close()
        IncrementalSnapshot({"a": array}, tmp_path).close()
    finally:
        os.kill(bystander, signal.SIGKILL)
        os.waitpid(bystander, 0)


def test_what_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.zeros(PAGE, np.uint8)
    (tmp_path / ".step-00000000.qcow2.0123456789abcdef").touch()

    def refused(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(CheckpointError, match="cannot be used: Permission denied"):
        IncrementalSnapshot({"a": array}, tmp_path)
    (tmp_path / "steps").mkdir()
    with IncrementalSnapshot({"a": array}, tmp_path / "steps", keep=1) as snapshot:
        for _ in range(4):
            snapshot.save()
        assert snapshot._retention is not None
        assert snapshot._retention._thread is not None
        snapshot._retention._thread.join()
        with pytest.raises(CheckpointError, match="cannot be removed: Permission denied"):
            snapshot.save()


RESTORING = """
import hashlib, json, sys, numpy as np
from hatchway.checkpoint import restore
into = {name: np.zeros(size, np.uint8) for name, size in json.loads(sys.argv[2]).items()}
restore(sys.argv[1], into)
print(json.dumps({name: hashlib.sha256(array).hexdigest() for name, array in into.items()}))
assert "torch" not in sys.modules
"""


def test_a_model_comes_back_in_another_process(tmp_path: Path) -> None:
    table = torch.nn.Embedding(5000, 64, sparse=True)
    model = torch.nn.Sequential(table, torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    state = model.state_dict()
    with IncrementalSnapshot(state, tmp_path) as snapshot:
        whole = snapshot.save().num_bytes
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randint(0, 5000, (8,))).sum().backward()
            optimizer.step()
            assert snapshot.save().num_bytes < whole / 4
    sizes = {name: tensor.nbytes for name, tensor in state.items()}
    command = [sys.executable, "-c", RESTORING, str(tmp_path), json.dumps(sizes)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    for name, tensor in state.items():
        assert found[name] == hashlib.sha256(tensor.numpy()).hexdigest()
