"""The benchmark of the simulator gives it what the limit measured, index by index."""

from __future__ import annotations

import pytest

from benchmarks.limit import Limit
from benchmarks.prediction import predict, summarise
from benchmarks.workloads import IndexedDataset, Workload
from hatchway.loader.simulator import Costs


class Sleeper(IndexedDataset):
    sleep_s = 8.0


WORKLOAD = Workload(
    name="tiny",
    title="four samples",
    build=lambda scale: Sleeper(),
    batch_size=1,
    num_workers=2,
    num_batches={"full": 4, "short": 4, "quick": 4},
)
LIMIT = Limit(
    makespan_s=4.0, mean_busy_s=3.5, sleep_s=4.0, cpu_share=0.0, sample_s=(4.0, 1.0, 1.0, 1.0)
)


@pytest.mark.parametrize(
    ("loader", "epoch_s", "first_batch_s"), [("torch", 5.0, 4.0), ("hatchway-strict", 4.0, 4.0)]
)
def test_the_times_of_the_limit_go_with_their_places_in_the_order(
    loader: str, epoch_s: float, first_batch_s: float
) -> None:
    predicted = predict(loader, WORKLOAD, Sleeper(), [2, 0, 3, 1], LIMIT, 0.0, Costs())
    assert predicted == (epoch_s, first_batch_s)


def test_failed_runs_are_left_out_of_the_summary() -> None:
    figures = {
        "live_s": 2.0,
        "over_live": 0.9,
        "first_batch_over_live": 1.0,
        "bare_over_live": 0.8,
        "foreign_share": 0.0,
    }
    good = {"loader": "torch", "repeat": 0, "error": None, **figures}
    failed = {"loader": "torch", "repeat": 1, "error": "it hung"}
    summary = summarise([good, failed, {**good, "repeat": 2, "over_live": 1.1}])
    assert summary["torch"]["over_live"]["median"] == pytest.approx(1.0)
    assert summary["torch"]["over_live"]["num_values"] == 2
