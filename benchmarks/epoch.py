"""One epoch: a loader, a paced device, and what was measured.

Definitions (all times from one monotonic clock):

- *start*: just before ``iter(loader)``; the loader is built before it, its
  workers start after it.
- ``epoch_s``: start to the end of the device's last step.
- ``first_batch_s``: start to the arrival of the first batch.
- ``steady_s``: arrival of the first batch to the end of the last step, that is
  ``epoch_s - first_batch_s``. The device has all its steps before it then, so
  with demand at capacity a loader that never keeps it waiting takes exactly
  the limit: *steady over the limit* is at least 1.
- ``wait_s``, ``longest_wait_s``: the device's idle time after the first batch
  came, in all and at most between two steps: the loop had nothing for it.
- ``wait_share``: ``wait_s`` over ``steady_s``.
- ``late_samples_*``, ``late_batches_*``: how far samples came after their turn in the
  sampler's order; see ``benchmarks.displacement``.
- ``busy_share``: the device's steps over ``epoch_s``.
- ``shutdown_s``: what the loader takes to end the iteration after its last batch.
- ``num_processes``: children (of all generations) that the epoch added, at most,
  looked up after the first batch, half-way and at the last batch.
- ``cpu_s``: processor time of the consumer and of all children that ended.
- ``foreign_share``: what others (processes, or the host as steal time) took of
  the machine's cores meanwhile. Above a few percent the run is noisy.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch

from benchmarks.contention import CpuClock
from benchmarks.device import PacedDevice
from benchmarks.displacement import measure_displacement
from benchmarks.errors import BenchmarkError

T = TypeVar("T")
_ENDING_S = 10.0
_LOOK_EVERY_S = 0.01


@dataclass(frozen=True)
class Epoch:
    """What one epoch took; see the module's definitions."""

    epoch_s: float
    first_batch_s: float
    steady_s: float
    busy_share: float
    wait_s: float
    wait_share: float
    longest_wait_s: float
    shutdown_s: float
    num_batches: int
    num_processes: int
    cpu_s: float
    foreign_share: float
    late_samples_median: int
    late_samples_p99: int
    late_batches_median: int
    late_batches_p99: int


def run_epoch(
    build: Callable[[], Iterable[Any]],
    *,
    order: Sequence[int],
    batch_size: int,
    step_s: float,
    deadline_s: float,
    at_end: Callable[[Any], T],
) -> tuple[Epoch, T]:
    """Run one epoch of the loader that ``build`` gives; return its figures and what is kept of it.

    Args:
        build: Gives the loader; its workers start when it is iterated, or are there already.
        order: The sampler's order of this epoch.
        batch_size: Samples in a batch; it divides their number.
        step_s: Seconds of the device for a batch.
        deadline_s: Seconds after which the epoch is given up.
        at_end: Takes what is wanted of the loader. Unless that is the loader itself, it is
            dropped then, and its processes' ends are waited for.

    Raises:
        BenchmarkError: If a sample is lost or doubled, or the epoch exceeds ``deadline_s``.
    """
    gc.collect()
    # Some loaders set this for the whole process; the next one shall not inherit it.
    num_threads = torch.get_num_threads()
    num_batches = len(order) // batch_size
    loader = build()
    device = PacedDevice(step_s)
    seen: list[torch.Tensor] = []
    before = children()
    num_processes = 0
    before_cpu = CpuClock.read()
    with _deadline(deadline_s):
        start = time.perf_counter()
        for batch in loader:
            device.take()
            seen.append(batch[1].clone())
            if len(seen) in (1, num_batches // 2, num_batches):
                num_processes = max(num_processes, len(children() - before))
        asked_out = time.perf_counter()
        end = device.finish()
    kept = at_end(loader)
    is_kept = kept is loader
    # Views of the last batch may keep a loader's memory.
    del loader, batch
    if not is_kept:
        gc.collect()
        wait_for_ends(before)
    torch.set_num_threads(num_threads)
    check_exactly_once(seen, len(order))
    own_s, foreign_share = CpuClock.read().since(before_cpu)
    late = measure_displacement(order, seen, batch_size)
    epoch_s = end - start
    first_batch_s = device.arrivals[0] - start
    figures = Epoch(
        epoch_s=epoch_s,
        first_batch_s=first_batch_s,
        steady_s=epoch_s - first_batch_s,
        busy_share=len(seen) * step_s / epoch_s,
        wait_s=sum(device.gaps_s),
        wait_share=sum(device.gaps_s) / (epoch_s - first_batch_s),
        longest_wait_s=max(device.gaps_s, default=0.0),
        shutdown_s=asked_out - device.arrivals[-1],
        num_batches=len(seen),
        num_processes=num_processes,
        cpu_s=own_s,
        foreign_share=foreign_share,
        late_samples_median=late.samples_median,
        late_samples_p99=late.samples_p99,
        late_batches_median=late.batches_median,
        late_batches_p99=late.batches_p99,
    )
    return figures, kept


def check_exactly_once(indices: list[torch.Tensor], num_samples: int) -> None:
    """Check that every index below ``num_samples`` came once.

    Raises:
        BenchmarkError: If one is lost or doubled; names the first of each.
    """
    came = torch.cat(indices) if indices else torch.empty(0, dtype=torch.int64)
    counts = torch.bincount(came, minlength=num_samples)
    lost, doubled = (counts == 0).nonzero().flatten(), (counts > 1).nonzero().flatten()
    if len(lost) or len(doubled) or len(counts) != num_samples:
        raise BenchmarkError(
            f"{len(came)} of {num_samples} samples came: {len(lost)} lost "
            f"{lost[:3].tolist()}, {len(doubled)} doubled {doubled[:3].tolist()}, "
            f"{len(counts) - num_samples} past the end"
        )


def children() -> set[int]:
    """Process ids of all living descendants, from /proc: some 50 us, no scan of all processes."""
    found: set[int] = set()
    parents = [Path("/proc/self")]
    while parents:
        for children in parents.pop().glob("task/*/children"):
            with contextlib.suppress(OSError):
                for pid in map(int, children.read_text().split()):
                    found.add(pid)
                    parents.append(Path(f"/proc/{pid}"))
    return found


def wait_for_ends(before: set[int]) -> None:
    """Wait for processes that are not in ``before``: some end only some time after their loader.

    Only then is their processor time known, and only then is the next run undisturbed.
    """
    deadline = time.perf_counter() + _ENDING_S
    # Looking also collects those that have ended.
    while any(child.pid not in before for child in multiprocessing.active_children()):
        if time.perf_counter() > deadline:
            return
        time.sleep(_LOOK_EVERY_S)


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise in the main thread after ``seconds``: a loader that hangs must not hang the rest."""

    def expire(_signum: int, _frame: FrameType | None) -> None:
        raise BenchmarkError(f"the epoch did not end within {seconds:.0f} s")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
