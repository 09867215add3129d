"""A worker process that is killed before any line of the loader harms nobody."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader as StockLoader
from torch.utils.data import Dataset

from hatchway import DataLoader
from tests.fault.reaper import CONTEXT, Reaper

pytestmark = pytest.mark.fault

NUM_SAMPLES = 13
BATCH_SIZE = 3
# The beginning is where most of the ways fork; the rest is sampled.
NUM_FIRST, FIRST_STEP, NUM_SAMPLED = 300, 12, 35


class Numbers(Dataset[Any]):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> Any:
        numbers = torch.full((40,), index)
        return (numbers, index) if self.kind == "rows" else {"n": numbers, "name": str(index)}


def collate_sums(samples: list[Any]) -> Any:
    return [(int(sample[0].sum()), sample[1]) for sample in samples]


SETTINGS: dict[str, dict[str, Any]] = {
    "strict, rows": {"order": "strict"},
    "strict, pickled": {"order": "strict", "kind": "pickled"},
    "strict, custom collate": {"order": "strict", "collate_fn": collate_sums},
    "ready, rows": {"order": "ready"},
    "ready, pickled": {"order": "ready", "kind": "pickled"},
    "ready, single": {"order": "ready", "batch_size": None},
}


def plain(batch: Any) -> Any:
    """A batch as something that can be compared."""
    if isinstance(batch, torch.Tensor):
        return batch.tolist()
    if isinstance(batch, dict):
        return sorted((key, plain(value)) for key, value in batch.items())
    return [plain(item) for item in batch] if isinstance(batch, (list, tuple)) else batch


def indices(batch: Any) -> list[int]:
    if isinstance(batch, dict):
        return sorted({row[0] for row in batch["n"].reshape(-1, 40).tolist()})
    numbers = batch[0]
    return sorted({int(number) for number in numbers.reshape(-1, 40)[:, 0]})


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", SETTINGS)
def test_batches_are_whole_wherever_a_worker_is_killed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"batch_size": BATCH_SIZE, "num_workers": 2, **SETTINGS[name]}
    dataset = Numbers(arguments.pop("kind", "rows"))
    order = arguments.pop("order")
    stock = [plain(batch) for batch in StockLoader(dataset, **arguments)]
    reaper = Reaper(monkeypatch)
    seed = random.randrange(2**32)
    print(f"seed {seed}")

    def run(line: int) -> int:
        reaper.arm(line)
        loader = DataLoader(
            dataset, **arguments, order=order, timeout=30, multiprocessing_context=CONTEXT
        )
        batches = list(loader)
        where = f"worker 0 was killed before line event {line}"
        if order == "strict":
            assert [plain(batch) for batch in batches] == stock, where
        else:
            found = sorted(index for batch in batches for index in indices(batch))
            assert found == list(range(NUM_SAMPLES)), where
        # Where the other worker did everything, nobody has missed the dead one.
        assert loader.statistics().num_restarts <= 1, where
        return reaper.lines_run

    num_lines = max(run(-1) for _ in range(3))
    draw = random.Random(seed)
    lines = set(range(draw.randrange(FIRST_STEP), NUM_FIRST, FIRST_STEP))
    lines.update(draw.sample(range(num_lines), NUM_SAMPLED))
    for line in sorted(lines):
        run(line)
