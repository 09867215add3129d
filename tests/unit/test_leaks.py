"""The guard against leaks sees each kind of leak, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import shared_memory
from pathlib import Path

from hatchway.loader.shared import SharedMapping
from tests.leaks import belongings, leaked_since


def test_a_test_that_cleans_up_leaks_nothing() -> None:
    before = belongings()
    subprocess.run([sys.executable, "-c", ""], check=True)
    block = shared_memory.SharedMemory(create=True, size=8)
    block.close()
    block.unlink()
    assert leaked_since(before) == []


def test_a_running_child_is_reported_and_ended() -> None:
    before = belongings()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        leaks = leaked_since(before)
        assert [leak for leak in leaks if f"child process {child.pid} " in leak] == leaks != []


def test_shared_memory_without_an_unlink_is_reported() -> None:
    before = belongings()
    block = shared_memory.SharedMemory(create=True, size=8)
    try:
        assert leaked_since(before) == [f"shared memory /dev/shm/{block.name}"]
    finally:
        block.close()
        block.unlink()


def test_many_open_descriptors_are_reported() -> None:
    before = belongings()
    descriptors = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    try:
        assert leaked_since(before) == ["20 file descriptors"]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_mapping_that_lives_on_is_reported() -> None:
    before = belongings()
    mapping = SharedMapping(1 << 16)
    mapping.close()
    assert leaked_since(before) == ["1 mappings of loaders"]
    del mapping
    assert leaked_since(before) == []


def test_shared_memory_of_a_foreign_process_is_not_ours(tmp_path: Path) -> None:
    before = belongings()
    # The grandchild outlives its parent, so it belongs to no test of this process.
    name = f"hatchway-foreign-{os.getpid()}"
    ready, finished = tmp_path / "ready", tmp_path / "finished"
    os.mkfifo(ready)
    os.mkfifo(finished)
    code = (
        "import os, sys\n"
        "name, ready, finished = sys.argv[1:]\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "held = open(name, 'w')\n"
        "open(ready, 'w').close()\n"
        "open(finished).close()\n"
        "os.unlink(name)\n"
    )
    arguments = [f"/dev/shm/{name}", str(ready), str(finished)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    ready.read_text()
    try:
        assert leaked_since(before) == []
    finally:
        finished.write_text("")
