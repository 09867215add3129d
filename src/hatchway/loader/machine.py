"""What this process may use of the machine: cores and memory, cgroup limits included.

Every function takes ``root``, the directory under which ``/proc`` and
``/sys`` lie, so that tests can show it any machine. Nothing here imports
torch. A file that is missing or unreadable means "no limit known here", not
an error: containers hide some of them.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "CpuLimits",
    "MemoryLimits",
    "available_memory_bytes",
    "cpu_limits",
    "cpu_quota",
    "memory_limits",
]


class CpuLimits(NamedTuple):
    """How many cores exist, and how many of them this process may use.

    Attributes:
        num_online: Cores that the kernel has online.
        num_affinity: Online cores that this process may run on.
        cgroup_quota: Cores' worth of time a cgroup grants, or None without a quota.
    """

    num_online: int
    num_affinity: int
    cgroup_quota: float | None

    @property
    def usable(self) -> float:
        """Cores' worth of time that this process can really get."""
        if self.cgroup_quota is None:
            return float(self.num_affinity)
        return min(float(self.num_affinity), self.cgroup_quota)


class MemoryLimits(NamedTuple):
    """How much memory the machine has, and how much is left for this process.

    Attributes:
        total_bytes: Memory of the whole machine.
        available_bytes: What the machine can give without swapping.
        cgroup_limit_bytes: The tightest limit above this process, or None.
        cgroup_available_bytes: The least that any of the limits above this
            process still leaves, or None without a limit.
    """

    total_bytes: int
    available_bytes: int
    cgroup_limit_bytes: int | None
    cgroup_available_bytes: int | None

    @property
    def usable_bytes(self) -> int:
        """Bytes that this process can still take without swapping or being killed."""
        if self.cgroup_available_bytes is None:
            return self.available_bytes
        return min(self.available_bytes, self.cgroup_available_bytes)


def available_memory_bytes(root: Path = Path("/")) -> int:
    """Return how many more bytes this process can take.

    The smaller of the machine's ``MemAvailable`` and what each cgroup (v1 or
    v2) above this process still leaves. Page cache that the kernel can drop
    at once counts as available.
    """
    return memory_limits(root).usable_bytes


def available_address_bytes() -> int | None:
    """Return how many more bytes of addresses ``ulimit -v`` leaves; None without a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return None
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        used = 0
    return max(0, soft - used)


def cpu_quota(root: Path = Path("/")) -> float:
    """Return how many cores' worth of time this process can get.

    The smaller of the cores in its affinity mask and the CPU quota of each
    cgroup (v1 or v2) above it. A fraction under a quota: 1.5 is one and a half.
    """
    return cpu_limits(root).usable


def cpu_limits(root: Path = Path("/")) -> CpuLimits:
    """Read the cores that exist, the affinity mask and the cgroup CPU quotas."""
    allowed = _parse_cpu_list(_field(root / "proc/self/status", "Cpus_allowed_list"))
    online = _parse_cpu_list(_read(root / "sys/devices/system/cpu/online"))
    num_online = len(online) or os.cpu_count() or 1
    # The mask may name cores that could be plugged in but are not there.
    usable = allowed & online if allowed and online else allowed
    quotas = []
    for directory in _cgroup_directories(root, "cpu"):
        quota, period = _read_quota(directory)
        if quota is not None and quota > 0 and period > 0:
            quotas.append(quota / period)
    return CpuLimits(
        num_online=num_online,
        num_affinity=len(usable) or num_online,
        cgroup_quota=min(quotas, default=None),
    )


class TaskUsage(NamedTuple):
    """What a process or thread takes of the cores.

    Attributes:
        cpu_s: Processor seconds so far.
        is_runnable: Whether it runs or waits for a core now.
    """

    cpu_s: float
    is_runnable: bool


def usages_of(tasks: Mapping[int, str], root: Path = Path("/")) -> dict[int, TaskUsage]:
    """Return what tasks take of the cores, as far as ``/proc`` says.

    Args:
        tasks: By any number, where each lies in ``/proc``: ``"17"``, ``"self/task/18"``.
        root: Above ``/proc``.
    """
    found = {}
    for number, task in tasks.items():
        # The name, in parentheses, may hold anything.
        words = _read(root / f"proc/{task}/stat").rpartition(")")[2].split()
        if len(words) >= 13:
            ticks = int(words[11]) + int(words[12])
            found[number] = TaskUsage(ticks / os.sysconf("SC_CLK_TCK"), words[0] == "R")
    return found


def process_memory_bytes(pid: int, root: Path = Path("/")) -> int:
    """Return the memory of a process's own, its share of what it shares included; 0 if unknown."""
    words = _field(root / f"proc/{pid}/smaps_rollup", "Pss_Anon").split()
    kibibytes = _to_int(words[0]) if words else None
    return 1024 * (kibibytes or 0)


def _available_by_sysconf() -> int | None:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None  # macOS has no such name


def memory_limits(root: Path = Path("/")) -> MemoryLimits:
    """Read the machine's memory and the memory limits of the cgroups above."""
    total = _meminfo_bytes(root, "MemTotal")
    available = _meminfo_bytes(root, "MemAvailable")
    if total is None:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if available is None:
        available = _available_by_sysconf() or total
    limits: list[int] = []
    left: list[int] = []
    for directory in _cgroup_directories(root, "memory"):
        # memory.high does not kill, but a process held above it hardly moves.
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            limit = _read_int(directory / name)
            # Version 1 writes "no limit" as a huge number, rounded to pages.
            if limit is None or limit >= total:
                continue
            limits.append(limit)
            left.append(max(0, limit - _used_bytes(directory)))
    return MemoryLimits(
        total_bytes=total,
        available_bytes=available,
        cgroup_limit_bytes=min(limits, default=None),
        cgroup_available_bytes=min(left, default=None),
    )


def _used_bytes(directory: Path) -> int:
    """Return the bytes charged to a cgroup that the kernel cannot drop at once."""
    for usage_name, cache_name in (
        ("memory.current", "inactive_file"),
        ("memory.usage_in_bytes", "total_inactive_file"),
    ):
        usage = _read_int(directory / usage_name)
        if usage is not None:
            cache = _to_int(_field(directory / "memory.stat", cache_name))
            return max(0, usage - (cache or 0))
    return 0


def _read_quota(directory: Path) -> tuple[int | None, int]:
    """Return (microseconds a period or None for no quota, microseconds of a period)."""
    words = _read(directory / "cpu.max").split()
    if len(words) == 2:
        return _to_int(words[0]), _to_int(words[1]) or 0
    return (
        _read_int(directory / "cpu.cfs_quota_us"),
        _read_int(directory / "cpu.cfs_period_us") or 0,
    )


def _cgroup_directories(root: Path, controller: str) -> list[Path]:
    """Return this process's cgroup and all above it that are visible, in both versions.

    A limit anywhere on the way up binds, and a controller may sit in a
    version 1 hierarchy while others sit in version 2.
    """
    mounts = _cgroup_mounts(root, controller)
    directories: list[Path] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        hierarchy, controllers, path = [*line.split(":", 2), "", ""][:3]
        is_v2 = hierarchy == "0" and not controllers
        if not is_v2 and controller not in controllers.split(","):
            continue
        for mount_root, mount_point in mounts["v2" if is_v2 else "v1"]:
            directories.extend(_walk_up(mount_root, mount_point, path))
    return directories


def _walk_up(mount_root: str, mount_point: Path, path: str) -> list[Path]:
    """Return the directories from the cgroup ``path`` up to its mount point."""
    prefix = "" if mount_root == "/" else mount_root
    below = path[len(prefix) :] if path == prefix or path.startswith(prefix + "/") else ""
    parts = [part for part in below.split("/") if part]
    # A path that leaves the namespace ("/../x") shows nothing below the mount.
    if ".." in parts:
        parts = []
    return [mount_point.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _cgroup_mounts(root: Path, controller: str) -> dict[str, list[tuple[str, Path]]]:
    """Return (root inside the hierarchy, mount point) of each cgroup mount."""
    mounts: dict[str, list[tuple[str, Path]]] = {"v1": [], "v2": []}
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if len(left) < 5 or len(right) < 3:
            continue
        where = (_unescape(left[3]), root / _unescape(left[4]).lstrip("/"))
        if right[0] == "cgroup2":
            mounts["v2"].append(where)
        elif right[0] == "cgroup" and controller in right[2].split(","):
            mounts["v1"].append(where)
    return mounts


def _unescape(text: str) -> str:
    r"""Undo the octal escapes of mountinfo, such as ``\040`` for a space."""
    for character in " \t\n\\":
        text = text.replace(f"\\{ord(character):03o}", character)
    return text


def _parse_cpu_list(text: str) -> frozenset[int]:
    """Parse a kernel list of cores such as ``0-3,8``; nothing from a malformed one."""
    cores: set[int] = set()
    try:
        for part in text.strip().split(","):
            first, _, last = part.partition("-")
            cores.update(range(int(first), int(last or first) + 1))
    except ValueError:
        return frozenset()
    return frozenset(cores)


def _meminfo_bytes(root: Path, name: str) -> int | None:
    words = _field(root / "proc/meminfo", name).split()
    kibibytes = _to_int(words[0]) if words else None
    return None if kibibytes is None else kibibytes * 1024


def _field(path: Path, name: str) -> str:
    """Return what follows ``name`` (and a colon, if any) on its line, or nothing."""
    for line in _read(path).splitlines():
        key, _, value = line.replace(":", " ", 1).partition(" ")
        if key == name:
            return value.strip()
    return ""


def _read_int(path: Path) -> int | None:
    return _to_int(_read(path))


def _to_int(text: str) -> int | None:
    """Parse an integer; None for anything else, such as ``max``."""
    try:
        return int(text)
    except ValueError:
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
