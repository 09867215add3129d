"""What is known to be slow starts before its turn, so that little comes out of turn."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from hatchway import DataLoader

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
NUM_SAMPLES = 192
SLOW_S = 0.06


class SomeSlow(Dataset[Any]):
    """Every eighth index is slow; notes in shared memory when each sample began."""

    def __init__(self) -> None:
        self.began = torch.zeros(NUM_SAMPLES, dtype=torch.float64).share_memory_()

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> int:
        self.began[index] = time.monotonic()
        time.sleep(SLOW_S if index % 8 == 5 else 0.003)
        return index


def _num_overtaken(began: torch.Tensor, order: list[int]) -> int:
    """How many samples, in all, began after a slow one whose turn comes later."""
    count = 0
    for rank, index in enumerate(order):
        if index % 8 == 5:
            count += int(
                (began[torch.tensor(order[:rank], dtype=torch.int64)] > began[index]).sum()
            )
    return count


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("order", ["strict", "ready"])
def test_slow_samples_start_early_once_they_are_known(order: str, persistent: bool) -> None:
    dataset = SomeSlow()
    loader = DataLoader(
        dataset,
        8,
        num_workers=4,
        order=order,
        persistent_workers=persistent,
        prepare_next_epoch=False,  # that would note anew when samples began
        timeout=30,
    )
    overtaken, late = [], []
    for _ in range(3):
        seen: list[int] = []
        for batch in loader:
            seen += batch.tolist()
        assert sorted(seen) == list(range(NUM_SAMPLES))
        # The first 64 may have begun again by now, for the next pass.
        overtaken.append(_num_overtaken(dataset.began[96:], list(range(96))))
        statistics = loader.statistics()
        late.append(statistics.displacement_quantiles[2])
    # In the first pass some are known before they come: their neighbours' times may tell.
    assert min(overtaken[1:]) > 2 * (overtaken[0] + 1)
    if order == "ready":
        assert max(late[1:]) < late[0]
    loader._iterator = None


def test_a_bound_on_displacement_is_kept_and_its_stalls_are_counted() -> None:
    loader = DataLoader(
        SomeSlow(), 8, num_workers=4, order="ready", max_displacement=8, slow_after_s=0.01
    )
    seen: list[int] = []
    for batch in loader:
        seen += batch.tolist()
    assert sorted(seen) == list(range(NUM_SAMPLES))
    assert max(turn - index for turn, index in enumerate(seen)) <= 8
    statistics = loader.statistics()
    assert statistics.max_displacement <= 8
    assert statistics.num_bound_stalls > 0
    assert 0 < statistics.bound_stall_s <= statistics.wait_s
    free = DataLoader(SomeSlow(), 8, num_workers=4, order="ready", slow_after_s=0.01)
    assert sum(len(batch) for batch in free) == NUM_SAMPLES
    assert free.statistics().max_displacement > 8
    assert free.statistics().num_bound_stalls == 0


def test_a_bound_of_zero_is_the_sampler_s_order() -> None:
    loader = DataLoader(SomeSlow(), 8, num_workers=4, order="ready", max_displacement=0)
    assert torch.cat(list(loader)).tolist() == list(range(NUM_SAMPLES))


@pytest.mark.parametrize("value", [-1, 1.5, True])
def test_a_bound_that_is_no_count_is_refused(value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="max_displacement must be"):
        DataLoader(SomeSlow(), max_displacement=value)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([1.0] * 5, "one number for each of the 192 samples"),
        ([1.0] * 191 + [float("nan")], r"sample_sizes\[191\] must be a finite number"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: list[float], said: str) -> None:
    loader = DataLoader(SomeSlow(), 8, num_workers=1, sample_sizes=sizes)
    with pytest.raises(ValueError, match=said):
        iter(loader)


def test_sizes_tell_what_is_slow_before_it_was_loaded() -> None:
    dataset = SomeSlow()
    sizes = [SLOW_S if index % 8 == 5 else 0.003 for index in range(NUM_SAMPLES)]
    loader = DataLoader(dataset, 8, num_workers=4, order="strict", sample_sizes=sizes)
    assert torch.cat(list(loader)).tolist() == list(range(NUM_SAMPLES))
    # The window of samples that are planned at first is not predicted yet.
    assert _num_overtaken(dataset.began[96:], list(range(96))) > 0


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_what_started_early_in_a_full_buffer_does_not_stop_the_loop(batch_size: int | None) -> None:
    slow = random.Random(2).sample(range(2, 30), 9)

    class Large(Dataset[Any]):
        def __len__(self) -> int:
            return 30

        def __getitem__(self, index: int) -> torch.Tensor:
            time.sleep(0.006 if index in slow else 0)
            return torch.full((25_000,), index, dtype=torch.int32)

    loader = DataLoader(
        Large(), batch_size, num_workers=3, order="strict", buffer_bytes=1 << 20, timeout=10
    )
    for _ in range(4):
        found = [batch.reshape(-1, 25_000)[:, 0] for batch in loader]
        assert torch.cat(found).tolist() == list(range(30))
