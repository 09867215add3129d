"""What the host grants this process: cores, memory, shared memory, descriptors."""

from __future__ import annotations

import multiprocessing
import os
import resource
from pathlib import Path

from hatchway.base.units import format_bytes
from hatchway.cli.doctor.finding import Finding, Mark
from hatchway.loader.machine import CpuLimits, MemoryLimits, cpu_limits, memory_limits

__all__ = [
    "assess_cpu",
    "assess_descriptors",
    "assess_memory",
    "assess_shared_memory",
    "assess_start_methods",
    "host_findings",
]

# A batch of 64 samples of 3x224x224 float32 is 37 MiB; a loader keeps several.
_ROOMY_SHARED_MEMORY_BYTES = 1 << 30
_ROOMY_MEMORY_BYTES = 2 << 30
# One descriptor a layer: a chain of 1,000 files and a loader fit under this.
_ROOMY_DESCRIPTORS = 4096


def host_findings(root: Path = Path("/")) -> list[Finding]:
    """Probe the host whose ``/proc``, ``/sys`` and ``/dev`` lie under ``root``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [
        assess_cpu(cpu_limits(root)),
        assess_memory(memory_limits(root)),
        assess_shared_memory(shared_memory_bytes(root)),
        assess_descriptors(soft, hard),
        assess_start_methods(multiprocessing.get_all_start_methods()),
    ]


def assess_cpu(limits: CpuLimits) -> Finding:
    """Say how many loader workers the cores carry."""
    value = f"{_cores(limits.usable)} usable of {limits.num_online} online"
    details = {
        "num_online": limits.num_online,
        "num_affinity": limits.num_affinity,
        "cgroup_quota_cores": limits.cgroup_quota,
        "usable_cores": limits.usable,
    }
    if limits.cgroup_quota is not None and limits.cgroup_quota < limits.num_affinity:
        return Finding(
            "cpu",
            "cores",
            Mark.LIMITED,
            value,
            f"a cgroup quota grants {limits.cgroup_quota:.3g} cores' worth of time: computing "
            "workers beyond that are throttled, waiting ones are not",
            details,
        )
    if limits.num_affinity < limits.num_online:
        return Finding(
            "cpu",
            "cores",
            Mark.LIMITED,
            value,
            f"the affinity mask allows {limits.num_affinity}: more computing workers than that "
            "gain nothing",
            details,
        )
    if limits.usable < 2:
        return Finding(
            "cpu",
            "cores",
            Mark.LIMITED,
            value,
            "workers and training step share one core: only waiting overlaps",
            details,
        )
    return Finding(
        "cpu",
        "cores",
        Mark.OK,
        value,
        f"up to {int(limits.usable)} workers compute at once; more help when samples wait for I/O",
        details,
    )


def assess_memory(limits: MemoryLimits) -> Finding:
    """Say how much memory prefetched batches and caches may take."""
    value = f"{format_bytes(limits.usable_bytes)} available of {format_bytes(limits.total_bytes)}"
    details = {
        "total_bytes": limits.total_bytes,
        "available_bytes": limits.available_bytes,
        "cgroup_limit_bytes": limits.cgroup_limit_bytes,
        "cgroup_available_bytes": limits.cgroup_available_bytes,
        "usable_bytes": limits.usable_bytes,
    }
    if limits.cgroup_limit_bytes is not None:
        value += f", cgroup limit {format_bytes(limits.cgroup_limit_bytes)}"
    if limits.usable_bytes < _ROOMY_MEMORY_BYTES:
        return Finding(
            "memory",
            "memory",
            Mark.LIMITED,
            value,
            "little room for prefetched batches: keep prefetch_factor and workers low",
            details,
        )
    bound = "" if limits.cgroup_available_bytes is None else " (the cgroup limit is respected)"
    return Finding(
        "memory", "memory", Mark.OK, value, f"room for prefetched batches{bound}", details
    )


def shared_memory_bytes(root: Path = Path("/")) -> tuple[int, int] | None:
    """Return (size, free) of the file system under ``/dev/shm``, or None without one."""
    try:
        status = os.statvfs(root / "dev/shm")
    except OSError:
        return None
    return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize


def assess_shared_memory(size_and_free: tuple[int, int] | None) -> Finding:
    """Say whether named shared memory can hold batches."""
    if size_and_free is None:
        return Finding(
            "shared_memory",
            "shared memory",
            Mark.MISSING,
            "no /dev/shm",
            "stock torch workers cannot pass tensors here; mount a tmpfs on /dev/shm",
        )
    size, free = size_and_free
    value = f"{format_bytes(free)} free of {format_bytes(size)} in /dev/shm"
    details = {"size_bytes": size, "free_bytes": free}
    if free < _ROOMY_SHARED_MEMORY_BYTES:
        return Finding(
            "shared_memory",
            "shared memory",
            Mark.LIMITED,
            value,
            "stock torch may die of a bus error on large batches (in a container raise it with "
            "--shm-size or --ipc=host); Hatchway's own buffer does not use it",
            details,
        )
    return Finding(
        "shared_memory",
        "shared memory",
        Mark.OK,
        value,
        "room for stock torch's batches; Hatchway's own buffer does not use it",
        details,
    )


def assess_descriptors(soft: int, hard: int) -> Finding:
    """Say whether the limit on open files carries long chains and many workers."""
    infinite = resource.RLIM_INFINITY
    value = f"{_limit(soft)} soft, {_limit(hard)} hard"
    details = {
        "soft": None if soft == infinite else soft,
        "hard": None if hard == infinite else hard,
    }
    if soft == infinite or soft >= _ROOMY_DESCRIPTORS:
        return Finding(
            "descriptors",
            "open files",
            Mark.OK,
            value,
            "enough for chains of 1,000 files and many workers",
            details,
        )
    if hard == infinite or hard >= _ROOMY_DESCRIPTORS:
        return Finding(
            "descriptors",
            "open files",
            Mark.OK,
            value,
            f"enough for the loader; for chains of 1,000 files run `ulimit -n {_ROOMY_DESCRIPTORS}`"
            " first",
            details,
        )
    return Finding(
        "descriptors",
        "open files",
        Mark.LIMITED,
        value,
        "enough for the loader; chains of more than about "
        f"{max(0, hard - 100)} files need a higher hard limit from root",
        details,
    )


def assess_start_methods(methods: list[str]) -> Finding:
    """Say how worker processes start; the first of ``methods`` is the default."""
    default = methods[0]
    value = ", ".join(f"{name} (default)" if name == default else name for name in methods)
    details = {"methods": list(methods), "default": default}
    if "fork" in methods:
        return Finding(
            "start_methods",
            "start methods",
            Mark.OK,
            value,
            "with fork, workers start in milliseconds and share the dataset copy-on-write",
            details,
        )
    return Finding(
        "start_methods",
        "start methods",
        Mark.LIMITED,
        value,
        "without fork each worker imports torch and unpickles the dataset: a slow first batch",
        details,
    )


def _cores(cores: float) -> str:
    return f"{cores:.3g} core" + ("" if cores == 1 else "s")


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else f"{value:,}"
