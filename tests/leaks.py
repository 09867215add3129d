"""Find what a test left behind: processes, shared memory, file descriptors."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")
# A killed or stopping process needs a moment to be gone.
_GRACE_S = 3.0
# Libraries open a few descriptors on first use and keep them.
_SPARE_DESCRIPTORS = 8


@dataclass(frozen=True)
class Belongings:
    """What this process holds at one moment."""

    children: frozenset[psutil.Process]
    shared_memory: frozenset[str]
    num_descriptors: int
    num_buffers: int


def belongings() -> Belongings:
    """Look at this process and at ``/dev/shm``."""
    return Belongings(_children(), _shared_memory(), _num_descriptors(), _num_buffers())


def leaked_since(before: Belongings) -> list[str]:
    """Describe what is still held that was not held ``before``; end leaked children."""
    leaks = []
    # Joins what has ended but was not joined; nothing else can be told apart from a leak.
    multiprocessing.active_children()
    suspects = _children() - before.children
    if suspects:
        _, alive = psutil.wait_procs(suspects, timeout=_GRACE_S)
        for process in alive:
            leaks.append(f"child process {process.pid} ({_command(process)})")
            process.kill()
        psutil.wait_procs(alive, timeout=_GRACE_S)
    names = _shared_memory() - before.shared_memory
    if names:
        # Another program's is held by it, or is on its way from one of its processes to
        # another and soon gone.
        deadline = time.monotonic() + _GRACE_S
        while (names := (names - _foreign()) & _shared_memory()) and time.monotonic() < deadline:
            time.sleep(0.1)
        leaks.extend(f"shared memory {SHARED_MEMORY / name}" for name in sorted(names))
    if _num_buffers() > before.num_buffers:
        gc.collect()
        if _num_buffers() > before.num_buffers:
            leaks.append(f"{_num_buffers() - before.num_buffers} mappings of loaders")
    if _num_descriptors() > before.num_descriptors + _SPARE_DESCRIPTORS:
        gc.collect()
        growth = _num_descriptors() - before.num_descriptors
        if growth > _SPARE_DESCRIPTORS:
            leaks.append(f"{growth} file descriptors")
    return leaks


def _children() -> frozenset[psutil.Process]:
    # Both of these serve all later tests, and end with this process.
    servants = {
        getattr(resource_tracker._resource_tracker, "_pid", None),
        getattr(forkserver._forkserver, "_forkserver_pid", None),
    }
    children = psutil.Process().children(recursive=True)
    return frozenset(process for process in children if process.pid not in servants)


def _shared_memory() -> frozenset[str]:
    try:
        return frozenset(os.listdir(SHARED_MEMORY))
    except OSError:
        return frozenset()


def _num_buffers() -> int:
    """How many memfds of loaders are mapped; they have no name in /dev/shm."""
    return Path("/proc/self/maps").read_text().count("/memfd:hatchway")


def _num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _foreign() -> frozenset[str]:
    """Return the shared memory that processes outside this test run hold."""
    own = {os.getpid(), *(process.pid for process in _children())}
    prefix = f"{SHARED_MEMORY}/"
    names: set[str] = set()
    inodes: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in own:
            continue
        try:
            links = [os.readlink(link) for link in (entry / "fd").iterdir()]
            lines = (entry / "maps").read_text().splitlines()
        except OSError:
            continue  # gone, or not ours to look at
        names.update(path[len(prefix) :] for path in links if path.startswith(prefix))
        # A semaphore was made under another name, and is mapped under that.
        inodes.update(int(line.split()[4]) for line in lines if prefix in line)
    for name in _shared_memory() - names:
        with contextlib.suppress(FileNotFoundError):
            if (SHARED_MEMORY / name).stat().st_ino in inodes:
                names.add(name)
    return frozenset(names)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:120]
    except psutil.Error:
        return "gone"
