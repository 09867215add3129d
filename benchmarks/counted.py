"""CPU work of a fixed length, counted in operations instead of read off a clock.

A loop that spins until a wall clock says so hides contention: descheduled for
a millisecond, it does a millisecond less work. Counted work does the same
work always, so a loader that steals the workers' cores shows in its figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

NOISE_BLOCK = 32 * 1024
# Enough that starting it (25 us) does not count: some 3 ms.
NOISE_TRIAL = 16 * NOISE_BLOCK


def spin(num_operations: int) -> int:
    """Do ``num_operations`` steps of a linear congruence in plain Python, holding the GIL."""
    x = 1
    for _ in range(num_operations):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
    return x


def noise(num_operations: int, seed: tuple[int, int] = (0, 0)) -> npt.NDArray[np.float32]:
    """Draw ``num_operations`` normal values with NumPy, without the GIL; return the last ones.

    They go through one block of ``NOISE_BLOCK`` values, which stays in a core's own cache.
    """
    rng = np.random.default_rng(seed)
    block = np.zeros(NOISE_BLOCK, dtype=np.float32)
    for done in range(0, num_operations, NOISE_BLOCK):
        rng.standard_normal(out=block[: num_operations - done], dtype=np.float32)
    return block


def calibrate(
    work: Callable[[int], object] = spin, trials: int = 50, num_operations: int = 40_000
) -> float:
    """Measure the seconds that one operation of ``work`` takes on an idle core.

    The fastest trial counts: whatever else runs on the machine only adds time.
    """
    best_s = float("inf")
    for _ in range(trials):
        started = time.perf_counter()
        work(num_operations)
        best_s = min(best_s, time.perf_counter() - started)
    return best_s / num_operations
