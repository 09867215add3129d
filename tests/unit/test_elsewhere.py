"""The pure-Python path without what only Linux has. A stand-in: no such system is at hand."""

from __future__ import annotations

import os
import subprocess
import sys

# What os and mmap lack on macOS, and what sysconf refuses there.
SCRIPT = """
import mmap, os
for name in ("memfd_create", "posix_fallocate", "pidfd_open", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
del mmap.MADV_REMOVE
sysconf = os.sysconf
def refuse(name):
    if name == "SC_AVPHYS_PAGES":
        raise ValueError("unrecognized configuration name")
    return sysconf(name)
os.sysconf = refuse

from pathlib import Path
from hatchway import DataLoader
from hatchway.loader import machine, native

assert native.MODULE is None
assert machine.memory_limits(Path("/nonexistent")).usable_bytes > 0
assert machine.cpu_limits(Path("/nonexistent")).usable > 0
numbers = list(range(10))
for workers in (0, 2):
    batches = DataLoader(numbers, 4, num_workers=workers, timeout=30 * (workers > 0))
    print([batch.tolist() for batch in batches])
"""


def test_it_imports_and_loads_without_what_macos_lacks() -> None:
    environment = {**os.environ, "HATCHWAY_PURE_PYTHON": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == 2 * "[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]\n"
