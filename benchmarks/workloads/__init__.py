"""The five workloads, and two replays of recorded times."""

from benchmarks.workloads.jpeg import JPEG
from benchmarks.workloads.replay import COMPUTING_REPLAY, WAITING_REPLAY
from benchmarks.workloads.spec import IndexedDataset, Length, Scale, Workload
from benchmarks.workloads.synthetic import CHEAP, EVEN, SKEWED
from benchmarks.workloads.volumes import VOLUMES

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (SKEWED, VOLUMES, JPEG, CHEAP, EVEN, WAITING_REPLAY, COMPUTING_REPLAY)
}

__all__ = ["WORKLOADS", "IndexedDataset", "Length", "Scale", "Workload"]
