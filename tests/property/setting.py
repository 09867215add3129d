"""What a simulated loader is made with, and what its batches must hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class BadSampleError(Exception):
    """What a failing sample raises."""


@dataclass(frozen=True)
class Setting:
    """A loader and the number of its samples."""

    order: str = "strict"  # "strict", "overtaking" (fixed content) or "ready"
    num_samples: int = 9
    batch_size: int = 3
    drop_last: bool = False
    num_workers: int = 2
    window: int = 3
    sample: str = "row"  # "row", "blob" or "mixed"
    custom_collate: bool = False
    odd_keys: bool = False
    pure: bool = False
    failing: frozenset[int] = frozenset()
    patience_s: float = 0.0
    leads: tuple[int, ...] = ()  # of ranks 0, 1, and so on
    max_displacement: int | None = None
    num_guests: int = 0  # ids for other ranks' workers
    foresees: str = "nothing"  # of the next epoch; "it" or "another", which never comes

    @property
    def is_free(self) -> bool:
        return self.order == "ready"


def read(batch: Any) -> list[int]:
    """The numbers of a batch's samples; fails if some byte is not what was written."""
    numbers = batch["numbers"]
    assert bool((numbers == numbers[:, :1]).all()), "a sample's bytes were overwritten"
    found = [int(number) for number in numbers[:, 0].tolist()]
    assert batch["half"].tolist() == [number / 2 for number in found]
    assert batch.get("name") in (None, [f"sample {number}" for number in found])
    return found
