"""All workloads, all loaders, interleaved: the raw runs and their summary."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

from benchmarks import epoch, host
from benchmarks.contention import DISTURBED_SHARE, wait_undisturbed
from benchmarks.counted import NOISE_TRIAL, calibrate, noise
from benchmarks.errors import BenchmarkError
from benchmarks.ideal import simulate
from benchmarks.limit import Limit, measure_limit
from benchmarks.loaders import build_loader, shuffled
from benchmarks.summary import summarise, summarise_ideals
from benchmarks.workloads import WORKLOADS, IndexedDataset, Length, Scale, Workload

SCHEMA = "hatchway-benchmarks/3"
_MORE_TRIES = 2

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        demands: The device's demand for batches over the workers' capacity to make them,
            each run beside the same limit; None for the workload's own.
        patience_s: How long to wait before each run for idle cores; if above 0,
            runs that others disturbed are repeated, twice at most.
    """

    workloads: tuple[str, ...]
    loaders: tuple[str, ...]
    repeats: int = 5
    seed: int = 0
    demands: tuple[float, ...] | None = None
    length: Length = "full"
    patience_s: float = 0.0


def run_suite(options: Options, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Run everything; return the report that ``--json`` writes."""
    operation_s = calibrate()
    noise_value_s = calibrate(noise, num_operations=NOISE_TRIAL)
    described = host.describe()
    workloads = []
    for name in options.workloads:
        workload = WORKLOADS[name]
        num_samples = workload.num_samples(options.length)
        scale = Scale(num_samples, options.seed, operation_s, noise_value_s)
        dataset = workload.build(scale)
        workloads += _run_workload(workload, dataset, options, say)
        del dataset
        gc.collect()
    return {
        "schema": SCHEMA,
        "definitions": {"epoch": epoch.__doc__, "limit": Limit.__doc__},
        "host": described,
        "options": asdict(options),
        "calibration": {"operation_s": operation_s, "noise_value_s": noise_value_s},
        "workloads": workloads,
    }


@dataclass(frozen=True)
class _Gathered:
    """What the repeats at one demand gave so far."""

    demand: float
    limits: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    ideals: list[dict[str, Any]] = field(default_factory=list)


def _run_workload(
    workload: Workload, dataset: IndexedDataset, options: Options, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Run all repeats at all demands; give the results of each demand."""
    gathered = [_Gathered(demand) for demand in options.demands or workload.demands]
    measure_limit(dataset, _warm_up(dataset), workload.num_workers)
    for repeat in range(options.repeats):
        order = list(shuffled(dataset, options.seed + repeat))
        limit = undisturbed_limit(dataset, order, workload.num_workers, options.patience_s)
        say(
            f"{workload.name} {repeat + 1}/{options.repeats}: the work alone {limit.work_s:.2f} s, "
            f"it had {limit.cpu_share:.0%} of its cores"
        )
        for at in rotated(gathered, repeat):
            _run_repeat(workload, dataset, order, limit, repeat, at, options, say)
    return [_described(workload, len(dataset), at) for at in gathered]


def _run_repeat(
    workload: Workload,
    dataset: IndexedDataset,
    order: Sequence[int],
    limit: Limit,
    repeat: int,
    at: _Gathered,
    options: Options,
    say: Callable[[str], None],
) -> None:
    """Run every loader once at one demand."""
    num_batches = len(dataset) // workload.batch_size
    step_s = limit.work_s / num_batches / at.demand
    limit_s = max(limit.work_s, num_batches * step_s)
    at.limits.append({"repeat": repeat, "limit_s": limit_s, "step_s": step_s, **_plain(limit)})
    for name, in_order in (("ready", False), ("strict", True)):
        ideal = simulate(
            limit.sample_s,
            workload.num_workers,
            workload.batch_size,
            in_order=in_order,
            demand=at.demand,
        )
        at.ideals.append({"loader": name, "repeat": repeat, "error": None, **asdict(ideal)})
    say(f" demand {at.demand:g}: limit {limit_s:.2f} s")
    seed = options.seed + repeat
    for place, loader in enumerate(rotated(options.loaders, repeat)):
        once = partial(run_loader, loader, workload, dataset, order, seed, step_s, limit_s)
        run = run_patiently(once, options.patience_s)
        at.runs.append({"loader": loader, "repeat": repeat, "place": place, **run})
        say(f"  {loader}: {_one_line(run, limit_s)}")


def _described(workload: Workload, num_samples: int, at: _Gathered) -> dict[str, Any]:
    return {
        "name": workload.name,
        "title": workload.title,
        "demand": at.demand,
        "batch_size": workload.batch_size,
        "num_workers": workload.num_workers,
        "num_samples": num_samples,
        "num_batches": num_samples // workload.batch_size,
        "parameters": workload.parameters,
        "limits": at.limits,
        "runs": at.runs,
        "ideals": at.ideals,
        "summary": summarise(at.runs, at.limits),
        "summary_of_ideals": summarise_ideals(at.ideals),
    }


def _plain(limit: Limit) -> dict[str, Any]:
    """The limit without the times of its samples, which may be many."""
    return {name: value for name, value in vars(limit).items() if name != "sample_s"}


def undisturbed_limit(
    dataset: IndexedDataset, order: Sequence[int], num_workers: int, patience_s: float
) -> Limit:
    """Measure the limit again where something else had the cores; the fastest counts.

    A disturbance only adds to the work alone, and a limit that is too long
    would pace the device too slowly and flatter every loader.
    """
    wait_undisturbed(patience_s)
    best = measure_limit(dataset, order, num_workers)
    for _ in range(_MORE_TRIES):
        if dataset.sleep_s or best.cpu_share >= 1 - DISTURBED_SHARE:
            break
        wait_undisturbed(patience_s)
        again = measure_limit(dataset, order, num_workers)
        best = min(best, again, key=lambda limit: limit.work_s)
    return best


def _warm_up(dataset: IndexedDataset) -> Sequence[int]:
    """Some samples: pages of the dataset and of libraries are there before timing starts."""
    return range(0, len(dataset), 11)


def rotated(items: Sequence[T], by: int) -> list[T]:
    """Rotate, so that over the repeats every one runs in every place."""
    shift = by % len(items)
    return [*items[shift:], *items[:shift]]


def run_patiently(run: Callable[[], dict[str, Any]], patience_s: float) -> dict[str, Any]:
    """Run until a run is undisturbed or failed; the least disturbed of three counts."""
    tries: list[dict[str, Any]] = []
    while True:
        wait_undisturbed(patience_s)
        tries.append(run())
        if tries[-1]["error"] is not None:
            return tries[-1]
        least = min(tries, key=lambda one: one["foreign_share"])
        if patience_s == 0 or least["foreign_share"] <= DISTURBED_SHARE or len(tries) > _MORE_TRIES:
            return {**least, "num_tries": len(tries)}


def run_loader(
    name: str,
    workload: Workload,
    dataset: IndexedDataset,
    order: Sequence[int],
    seed: int,
    step_s: float,
    limit_s: float,
) -> dict[str, Any]:
    try:
        with without_advice():
            figures, statistics = epoch.run_epoch(
                lambda: build_loader(name, workload, dataset, seed),
                order=order,
                batch_size=workload.batch_size,
                step_s=step_s,
                deadline_s=deadline_s(limit_s),
                at_end=statistics_of,
            )
    except Exception as error:  # a loader's failure is a result: name it, go on with the others
        return {"error": what_failed(error), "statistics": None}
    return {"error": None, **asdict(figures), "statistics": statistics}


def deadline_s(limit_s: float) -> float:
    """When an epoch counts as one that hangs."""
    return 30 + 20 * limit_s


def what_failed(error: Exception) -> str:
    """Say what failed, in one line."""
    kind = "" if isinstance(error, BenchmarkError) else f"{type(error).__name__}: "
    return f"{kind}{error}"


@contextlib.contextmanager
def without_advice() -> Iterator[None]:
    """Silence torch's advice against 8 workers on 2 cores, and SPDL's against fork."""
    with warnings.catch_warnings():
        # These workers wait.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        # Threads of a loader that ran before may still be there. Spawning instead
        # would take SPDL seconds.
        warnings.filterwarnings("ignore", message="Fusing subprocess pipeline stages")
        yield


def statistics_of(loader: Any) -> dict[str, Any] | None:
    """Hatchway's own statistics of the epoch, as plain data; None for other loaders."""
    snapshot = loader.statistics() if hasattr(loader, "statistics") else None
    if snapshot is None or not dataclasses.is_dataclass(snapshot):
        return None
    fields = asdict(snapshot)  # type: ignore[arg-type]  # an instance, not a class
    return {"wait_share": getattr(snapshot, "wait_share", None), **fields}


def _one_line(run: dict[str, Any], limit_s: float) -> str:
    if run["error"]:
        return f"error: {run['error']}"
    return (
        f"epoch {run['epoch_s']:.2f} s ({run['epoch_s'] / limit_s:.2f} over the limit, "
        f"steady {run['steady_s'] / limit_s:.2f}), first batch {run['first_batch_s'] * 1e3:.0f} ms"
    )
