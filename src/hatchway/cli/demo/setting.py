"""How large the demo is, and which loaders it compares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader as StockLoader


@dataclass(frozen=True)
class Size:
    """How large the demo is.

    Attributes:
        scale: Of each axis, against what MLPerf trains on.
        crop_side: Side of the box that the network sees (MLPerf: 128).
        num_cases: How many of the 210 cases.
        num_measured: How many of them are timed beforehand.
        total_s: The whole demo should take no longer.
    """

    scale: float
    crop_side: int
    num_cases: int
    num_measured: int
    total_s: float


FULL = Size(scale=0.8, crop_side=96, num_cases=210, num_measured=24, total_s=85.0)
QUICK = Size(scale=0.6, crop_side=64, num_cases=48, num_measured=8, total_s=16.0)


@dataclass(frozen=True)
class Contender:
    """A loader to try: its class and what sets it apart; the rest is the same for all."""

    name: str
    loader_class: Callable[..., Iterable[Any]]
    options: Mapping[str, object] = field(default_factory=dict)


def contenders(order: str, hatchway_loader: Callable[..., Iterable[Any]]) -> list[Contender]:
    """Return the loaders to compare: stock torch, its options that help most, Hatchway.

    All get the same workers: those that Hatchway may start besides are switched off.
    """
    hatchway = {"order": order, "max_background_workers": 0}
    return [
        Contender("torch DataLoader", StockLoader),
        Contender("torch, in_order=False", StockLoader, {"in_order": False}),
        Contender("torch, prefetch_factor=8", StockLoader, {"prefetch_factor": 8}),
        Contender("Hatchway", hatchway_loader, hatchway),
        Contender(
            "Hatchway, prefetch_factor=8", hatchway_loader, {**hatchway, "prefetch_factor": 8}
        ),
    ]
