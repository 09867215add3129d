"""How much CPU time other programs took meanwhile: a comparison on a busy machine misleads."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

# Below this share, noise of the accounting and of the system's own services.
WORTH_A_WARNING = 0.1


@dataclass(frozen=True)
class CpuTime:
    """Readings at one moment, all in seconds.

    Attributes:
        now_s: A monotonic clock.
        busy_s: CPU time of all programs, summed over the CPUs, since the machine started.
        own_s: CPU time of this process and of its children that have ended.
        num_cpus: CPUs of the machine.
    """

    now_s: float
    busy_s: float
    own_s: float
    num_cpus: int


def parse_cpu_time(stat: str, *, now_s: float, own_s: float, ticks_per_s: int) -> CpuTime:
    """Read the text of ``/proc/stat``."""
    lines = [line.split() for line in stat.splitlines() if line.startswith("cpu")]
    total, *each = lines
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in total[1:9])
    busy_s = (user + nice + system + irq + softirq + steal) / ticks_per_s
    return CpuTime(now_s, busy_s, own_s, len(each))


def read_cpu_time() -> CpuTime | None:
    """Read the machine's accounting; None where there is no ``/proc/stat`` of this form."""
    times = os.times()
    own_s = times.user + times.system + times.children_user + times.children_system
    try:
        stat = Path("/proc/stat").read_text(encoding="utf-8")
        return parse_cpu_time(
            stat, now_s=time.monotonic(), own_s=own_s, ticks_per_s=os.sysconf("SC_CLK_TCK")
        )
    except (OSError, ValueError):
        return None


def others_share(before: CpuTime | None, after: CpuTime | None) -> float | None:
    """Return the share of the machine's CPU time, 0 to 1, that others took in between.

    Children count as others until they have ended: read ``after`` once the workers have.
    """
    if before is None or after is None:
        return None
    available_s = (after.now_s - before.now_s) * after.num_cpus
    others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return min(1.0, max(0.0, others_s / available_s)) if available_s > 0 else 0.0
