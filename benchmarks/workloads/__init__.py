"""The five workloads."""

from benchmarks.workloads.jpeg import JPEG
from benchmarks.workloads.spec import IndexedDataset, Length, Scale, Workload
from benchmarks.workloads.synthetic import CHEAP, EVEN, SKEWED
from benchmarks.workloads.volumes import VOLUMES

WORKLOADS: dict[str, Workload] = {w.name: w for w in (SKEWED, VOLUMES, JPEG, CHEAP, EVEN)}

__all__ = ["WORKLOADS", "IndexedDataset", "Length", "Scale", "Workload"]
