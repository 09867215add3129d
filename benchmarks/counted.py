"""CPU work of a fixed length, counted in operations instead of read off a clock.

A loop that spins until a wall clock says so hides contention: descheduled for
a millisecond, it does a millisecond less work. Counted work does the same
work always, so a loader that steals the workers' cores shows in its figures.
"""

from __future__ import annotations

import time


def spin(num_operations: int) -> int:
    """Do ``num_operations`` steps of a linear congruence in plain Python, holding the GIL."""
    x = 1
    for _ in range(num_operations):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
    return x


def calibrate(trials: int = 50, num_operations: int = 40_000) -> float:
    """Measure the seconds that one operation of :func:`spin` takes on an idle core.

    The fastest trial counts: whatever else runs on the machine only adds time.
    """
    best_s = float("inf")
    for _ in range(trials):
        started = time.perf_counter()
        spin(num_operations)
        best_s = min(best_s, time.perf_counter() - started)
    return best_s / num_operations
