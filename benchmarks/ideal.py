"""What a loader without any cost would reach: the measured samples, scheduled by simulation.

Where samples differ, a device whose demand equals capacity must wait for a run of
slow ones and cannot catch up: not even a loader that costs nothing comes to 1.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ideal:
    """An epoch without any cost but the samples' own time; see ``benchmarks.epoch``.

    Attributes:
        steady_over_limit: From the first batch to the end, over the work's makespan or
            the device's steps, whichever is longer.
        epoch_over_limit: The whole epoch over the same.
    """

    steady_over_limit: float
    epoch_over_limit: float


def simulate(
    sample_s: Sequence[float],
    num_workers: int,
    batch_size: int,
    *,
    in_order: bool,
    demand: float = 1.0,
) -> Ideal:
    """Run samples of known times on workers that take the next one at once.

    Workers may be ahead of the device by any number of samples.

    Args:
        sample_s: Seconds of each sample, in the sampler's order.
        num_workers: Workers, each with a core of its own or waiting.
        batch_size: Samples in a batch.
        in_order: Whether a batch holds the sampler's next samples, or those that
            are finished next.
        demand: Of the device over the workers' capacity; below 1 its steps are the limit.
    """
    free_at = [0.0] * num_workers
    ends = []
    for seconds in sample_s:
        end = heapq.heappop(free_at) + seconds
        heapq.heappush(free_at, end)
        ends.append(end)
    makespan_s = max(ends)
    if not in_order:
        ends.sort()
    step_s = makespan_s * batch_size / len(ends) / demand
    limit_s = max(makespan_s, makespan_s / demand)
    first_s, device_s, made_s = 0.0, 0.0, 0.0
    for start in range(0, len(ends), batch_size):
        made_s = max(made_s, *ends[start : start + batch_size])
        first_s = first_s or made_s
        device_s = max(device_s, made_s) + step_s
    return Ideal((device_s - first_s) / limit_s, device_s / limit_s)
