"""What the arguments of the loader mean, and what wrong ones are told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from hatchway import DataLoader
from hatchway.loader.options import default_buffer_bytes, has_own_batches, resolve_order

DATA = list(range(8))


class OwnSampler(Sampler[int]):
    """A sampler of the user's that is not random."""

    def __iter__(self) -> Iterator[int]:
        return iter(DATA)


class OwnBatches(BatchSampler):
    """A batch sampler of the user's, over a random sampler."""


def distributed(shuffle: bool) -> DistributedSampler[Any]:
    return DistributedSampler(DATA, num_replicas=2, rank=0, shuffle=shuffle)  # type: ignore[arg-type]


ORDERS: list[tuple[dict[str, Any], str]] = [
    ({}, "strict"),
    ({"shuffle": False}, "strict"),
    ({"shuffle": True}, "ready"),
    ({"sampler": SequentialSampler(DATA)}, "strict"),
    ({"sampler": RandomSampler(DATA)}, "ready"),
    ({"sampler": SubsetRandomSampler([1, 2])}, "ready"),
    ({"sampler": WeightedRandomSampler([1.0, 2.0], 4)}, "ready"),
    ({"sampler": distributed(shuffle=True)}, "ready"),
    ({"sampler": distributed(shuffle=False)}, "strict"),
    ({"sampler": [3, 1, 2]}, "strict"),
    ({"sampler": OwnSampler()}, "strict"),
    ({"batch_sampler": BatchSampler(RandomSampler(DATA), 2, False)}, "ready"),
    ({"batch_sampler": BatchSampler(SequentialSampler(DATA), 2, False)}, "strict"),
    ({"batch_sampler": OwnBatches(RandomSampler(DATA), 2, False)}, "strict"),
    ({"batch_sampler": [[1, 2], [3]]}, "strict"),
    ({"batch_size": None, "shuffle": True}, "ready"),
    ({"batch_size": None}, "strict"),
    ({"in_order": False}, "ready"),
    ({"in_order": False, "shuffle": True}, "ready"),
    ({"in_order": False, "order": "strict"}, "strict"),
    ({"shuffle": True, "order": "strict"}, "strict"),
    ({"order": "ready"}, "ready"),
]


@pytest.mark.parametrize(("arguments", "order"), ORDERS, ids=str)
def test_auto_is_ready_where_the_order_was_random_anyway(
    arguments: dict[str, Any], order: str
) -> None:
    assert resolve_order(DataLoader(DATA, **arguments)) == order


@pytest.mark.parametrize(
    ("arguments", "order"),
    [
        ({"shuffle": True}, "strict"),
        ({"sampler": distributed(shuffle=True)}, "strict"),
        ({"shuffle": True, "order": "ready"}, "ready"),
        ({"in_order": False}, "ready"),
    ],
    ids=str,
)
def test_deterministic_algorithms_make_auto_strict(arguments: dict[str, Any], order: str) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        assert resolve_order(DataLoader(DATA, **arguments)) == order
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_order_is_resolved_when_an_epoch_begins_and_not_before() -> None:
    loader = DataLoader(DATA, shuffle=True)
    assert resolve_order(loader) == "ready"
    loader.in_order = True
    loader.order = "strict"
    assert resolve_order(loader) == "strict"


def test_only_a_batch_sampler_of_the_users_has_batches_of_its_own() -> None:
    assert has_own_batches(DataLoader(DATA, batch_sampler=[[1]]))
    assert not has_own_batches(DataLoader(DATA, 3))
    assert not has_own_batches(DataLoader(DATA, batch_size=None))


WRONG: list[tuple[str, object, type[Exception], str]] = [
    ("order", "sorted", ValueError, "order must be 'auto', 'strict' or 'ready', not 'sorted'"),
    ("order", None, ValueError, "order must be 'auto', 'strict' or 'ready', not None"),
    ("seeding", "none", ValueError, "seeding must be 'position' or 'torch', not 'none'"),
    ("slow_after_s", 0, ValueError, "slow_after_s must be a number of seconds above 0"),
    ("slow_after_s", -1.5, ValueError, "not -1.5"),
    ("slow_after_s", float("nan"), ValueError, "not nan"),
    ("slow_after_s", "1", TypeError, "not '1'"),
    ("slow_after_s", True, TypeError, "not True"),
    ("buffer_bytes", 1000, ValueError, "buffer_bytes must be at least 1048576, not 1000"),
    ("buffer_bytes", -1, ValueError, "not -1"),
    ("buffer_bytes", 1e9, TypeError, "buffer_bytes must be an int or None, not 1000000000.0"),
    ("buffer_bytes", "1G", TypeError, "not '1G'"),
    ("buffer_bytes", True, TypeError, "not True"),
    ("max_background_workers", -1, ValueError, "max_background_workers must be at least 0, not -1"),
    ("max_background_workers", 1.0, TypeError, "must be an int or None, not 1.0"),
]


@pytest.mark.parametrize(("name", "value", "error", "said"), WRONG, ids=str)
def test_a_wrong_value_is_told_the_argument_the_value_and_what_is_allowed(
    name: str, value: object, error: type[Exception], said: str
) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(error) as caught:
        DataLoader(DATA, **arguments)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{name} must be")


def test_a_wrong_value_that_is_set_later_is_told_when_an_epoch_begins() -> None:
    loader = DataLoader(DATA, num_workers=1)
    loader.max_background_workers = -2
    with pytest.raises(ValueError, match="max_background_workers must be at least 0, not -2"):
        iter(loader)


@pytest.mark.parametrize(
    "arguments",
    [{"slow_after_s": 1}, {"slow_after_s": float("inf")}, {"buffer_bytes": 1 << 20}],
    ids=str,
)
def test_the_bounds_of_what_is_allowed_are_allowed(arguments: dict[str, Any]) -> None:
    DataLoader(DATA, **arguments)


def test_the_cut_is_a_quantile_unless_seconds_are_given() -> None:
    assert DataLoader(DATA).options.slow_cut == (0.75, True)
    assert DataLoader(DATA, slow_after_s=0.75).options.slow_cut == (0.75, False)


def test_the_default_buffer_is_never_tiny() -> None:
    assert default_buffer_bytes() >= 64 << 20
