"""All workloads, all loaders, interleaved: the raw runs and their summary."""

from __future__ import annotations

import dataclasses
import gc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmarks import epoch, host
from benchmarks.contention import DISTURBED_SHARE, wait_undisturbed
from benchmarks.counted import NOISE_TRIAL, calibrate, noise
from benchmarks.errors import BenchmarkError
from benchmarks.ideal import simulate
from benchmarks.limit import Limit, measure_limit
from benchmarks.loaders import build_loader, shuffled
from benchmarks.summary import summarise, summarise_ideals
from benchmarks.workloads import WORKLOADS, IndexedDataset, Length, Scale, Workload

SCHEMA = "hatchway-benchmarks/2"
_MORE_TRIES = 2


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        demand: The device's demand for batches over the workers' capacity to make them.
        patience_s: How long to wait before each run for idle cores; if above 0,
            runs that others disturbed are repeated, twice at most.
    """

    workloads: tuple[str, ...]
    loaders: tuple[str, ...]
    repeats: int = 5
    seed: int = 0
    demand: float = 1.0
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
        workloads.append(_run_workload(workload, dataset, options, say))
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


def _run_workload(
    workload: Workload, dataset: IndexedDataset, options: Options, say: Callable[[str], None]
) -> dict[str, Any]:
    num_batches = len(dataset) // workload.batch_size
    measure_limit(dataset, _warm_up(dataset), workload.num_workers)
    limits: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    ideals: list[dict[str, Any]] = []
    for repeat in range(options.repeats):
        order = list(shuffled(dataset, options.seed + repeat))
        limit = _undisturbed_limit(dataset, order, workload.num_workers, options.patience_s)
        step_s = limit.work_s / num_batches / options.demand
        limit_s = max(limit.work_s, num_batches * step_s)
        limits.append({"repeat": repeat, "limit_s": limit_s, "step_s": step_s, **_plain(limit)})
        for name, in_order in (("ready", False), ("strict", True)):
            ideal = simulate(
                limit.sample_s, workload.num_workers, workload.batch_size, in_order=in_order
            )
            ideals.append({"loader": name, "repeat": repeat, "error": None, **asdict(ideal)})
        say(
            f"{workload.name} {repeat + 1}/{options.repeats}: limit {limit_s:.2f} s, "
            f"the work had {limit.cpu_share:.0%} of its cores"
        )
        for place, loader in enumerate(rotated(options.loaders, repeat)):
            seed = options.seed + repeat
            once = partial(_run_loader, loader, workload, dataset, seed, step_s, limit_s)
            run = _run_patiently(once, options.patience_s)
            runs.append({"loader": loader, "repeat": repeat, "place": place, **run})
            say(f"  {loader}: {_one_line(run, limit_s)}")
    return {
        "name": workload.name,
        "title": workload.title,
        "batch_size": workload.batch_size,
        "num_workers": workload.num_workers,
        "num_samples": len(dataset),
        "num_batches": num_batches,
        "parameters": workload.parameters,
        "limits": limits,
        "runs": runs,
        "ideals": ideals,
        "summary": summarise(runs, limits),
        "summary_of_ideals": summarise_ideals(ideals),
    }


def _plain(limit: Limit) -> dict[str, Any]:
    """The limit without the times of its samples, which may be many."""
    return {name: value for name, value in vars(limit).items() if name != "sample_s"}


def _undisturbed_limit(
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


def rotated(names: Sequence[str], by: int) -> list[str]:
    """Rotate, so that over the repeats every loader runs in every place."""
    shift = by % len(names)
    return [*names[shift:], *names[:shift]]


def _run_patiently(run: Callable[[], dict[str, Any]], patience_s: float) -> dict[str, Any]:
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


def _run_loader(
    name: str,
    workload: Workload,
    dataset: IndexedDataset,
    seed: int,
    step_s: float,
    limit_s: float,
) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            # Torch advises against 8 workers on 2 cores; these wait.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            figures, loader = epoch.run_epoch(
                lambda: build_loader(name, workload, dataset, seed),
                num_samples=len(dataset),
                num_batches=len(dataset) // workload.batch_size,
                step_s=step_s,
                deadline_s=30 + 20 * limit_s,
            )
    except Exception as error:  # a loader's failure is a result: name it, go on with the others
        kind = "" if isinstance(error, BenchmarkError) else f"{type(error).__name__}: "
        return {"error": f"{kind}{error}", "statistics": None}
    return {"error": None, **asdict(figures), "statistics": statistics_of(loader)}


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
