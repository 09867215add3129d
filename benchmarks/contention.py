"""What other processes do to a run on a shared machine: measured, and waited for."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

# A run is disturbed when others had more than this share of the cores.
DISTURBED_SHARE = 0.05
_PROBE_S = 0.5


@dataclass(frozen=True)
class CpuClock:
    """Processor time spent so far: by this process and its ended children, and by the machine."""

    now: float
    own_s: float
    machine_s: float

    @classmethod
    def read(cls) -> CpuClock:
        """Read the clocks; the machine's ticks are 10 ms."""
        usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        return cls(
            now=time.perf_counter(),
            own_s=sum(usage.ru_utime + usage.ru_stime for usage in usages),
            machine_s=(user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK"),
        )

    def since(self, before: CpuClock) -> tuple[float, float]:
        """Give our own seconds since ``before``, and the share of all cores that others had."""
        own_s = self.own_s - before.own_s
        foreign_s = self.machine_s - before.machine_s - own_s
        capacity_s = (self.now - before.now) * (os.cpu_count() or 1)
        return own_s, max(0.0, foreign_s / capacity_s)


def wait_undisturbed(patience_s: float) -> None:
    """Return once others leave the cores idle, or after ``patience_s``."""
    deadline = time.perf_counter() + patience_s
    while time.perf_counter() < deadline:
        before = CpuClock.read()
        time.sleep(_PROBE_S)
        _, foreign_share = CpuClock.read().since(before)
        if foreign_share < DISTURBED_SHARE:
            return
