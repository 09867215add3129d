"""Accelerate's adapters hold our loader, whatever they are asked to make of it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, Dataset, IterableDataset, RandomSampler

import hatchway
from hatchway.loader import accelerated
from tests.real.ranks import CONTEXT, Rank, ranks

accelerate = pytest.importorskip("accelerate", reason="`make test` installs accelerate")

pytestmark = pytest.mark.real


class Numbers(Dataset[torch.Tensor]):
    """Some numbers."""

    def __init__(self, size: int = 30) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> torch.Tensor:
        return torch.as_tensor(index)


class Waiting(Numbers):
    """Sample 12 says whether sample 0, which fills up the last batch, begins while it runs."""

    def __init__(self, seconds: float) -> None:
        super().__init__(20)
        self.is_begun: Any = CONTEXT.Event()
        self.seconds = seconds

    def __getitem__(self, index: Any) -> torch.Tensor:
        if index == 0:
            self.is_begun.set()
        if index == 12 and self.is_begun.wait(self.seconds):
            return torch.tensor(-1)
        return torch.as_tensor(index)


class Stream(IterableDataset[torch.Tensor]):
    """The same numbers, one after the other."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.arange(30))


@pytest.fixture
def accelerator() -> Iterator[Any]:
    yield accelerate.Accelerator(cpu=True)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def numbers(loader: Any) -> list[int]:
    return [number for batch in loader for number in batch.flatten().tolist()]


def around_a_stop(
    stopped: Any, prepare: Callable[[], Any], *, num_batches: int
) -> tuple[list[int], list[int]]:
    """What comes before a stop, and from another loader that goes on from its state."""
    batches = iter(stopped)
    before = numbers([next(batches) for _ in range(num_batches)])
    state = stopped.state_dict()
    batches.close()
    going_on = prepare()
    going_on.load_state_dict(state)
    return before, numbers(going_on)


def test_a_prepared_loader_is_ours_with_its_arguments(accelerator: Any) -> None:
    loader = hatchway.DataLoader(
        Numbers(), batch_size=4, shuffle=True, num_workers=2, slow_after_s=2.5, max_displacement=9
    )
    prepared = accelerator.prepare(loader)
    inner = prepared.base_dataloader
    assert type(inner) is hatchway.DataLoader
    assert isinstance(prepared, hatchway.DataLoader)
    assert (inner.slow_after_s, inner.max_displacement, inner.batch_size) == (2.5, 9, 4)
    assert (len(prepared), prepared.total_batch_size) == (8, 4)
    assert sorted(numbers(prepared)) == list(range(30))
    done = prepared.statistics()
    assert (done.order, done.num_samples) == ("ready", 30)
    assert loader.statistics() == done  # the loader that was prepared still tells


@pytest.mark.parametrize(
    "arguments",
    [
        {"shuffle": False},
        {"sampler": list(range(29, -1, -1))},
        {"batch_sampler": [[3, 1], [2], [0, 4, 5]]},
        {"drop_last": True},
        {"num_workers": 0},
    ],
    ids=lambda arguments: ",".join(arguments),
)
def test_it_gives_what_stock_torch_gives_there(accelerator: Any, arguments: dict[str, Any]) -> None:
    if "batch_sampler" not in arguments:
        arguments = {"batch_size": 4, **arguments}
    arguments = {"num_workers": 1, **arguments}
    ours = accelerator.prepare(hatchway.DataLoader(Numbers(), **arguments))
    stock = accelerator.prepare(torch.utils.data.DataLoader(Numbers(), **arguments))
    assert type(ours.base_dataloader) is hatchway.DataLoader
    assert type(stock.base_dataloader) is torch.utils.data.DataLoader
    assert len(ours) == len(stock)
    for mine, theirs in zip(ours, stock, strict=True):
        assert torch.equal(mine, theirs)


def test_it_stays_when_batches_are_skipped(accelerator: Any) -> None:
    prepared = accelerator.prepare(hatchway.DataLoader(Numbers(), batch_size=4, num_workers=1))
    rest = accelerate.skip_first_batches(prepared, 5)
    assert type(rest.base_dataloader) is hatchway.DataLoader
    assert numbers(rest) == list(range(20, 30))
    assert numbers(prepared) == list(range(30))


def test_it_stays_where_one_process_reads_for_all(accelerator: Any) -> None:
    configuration = accelerate.DataLoaderConfiguration(dispatch_batches=True)
    dispatching = accelerate.Accelerator(cpu=True, dataloader_config=configuration)
    prepared = dispatching.prepare(hatchway.DataLoader(Numbers(), batch_size=4, num_workers=1))
    assert type(prepared.base_dataloader) is hatchway.DataLoader
    assert numbers(prepared) == list(range(30))


def test_it_stays_over_an_iterable_dataset(accelerator: Any) -> None:
    prepared = accelerator.prepare(hatchway.DataLoader(Stream(), batch_size=4, num_workers=1))
    assert type(prepared.base_dataloader) is hatchway.DataLoader
    assert numbers(prepared) == list(range(30))


def test_its_state_counts_what_the_loop_was_given(accelerator: Any) -> None:
    # The adapter is always one batch ahead of the loop.
    def prepare() -> Any:
        torch.manual_seed(0)
        data, size = Numbers(), 4
        return accelerator.prepare(
            hatchway.DataLoader(data, size, sampler=RandomSampler(data), num_workers=2)
        )

    before, after = around_a_stop(prepare(), prepare, num_batches=3)
    assert sorted(before + after) == list(range(30))


@pytest.mark.parametrize("split", [False, True])
def test_its_state_knows_the_sampler_that_accelerate_put_into_it(
    accelerator: Any, split: bool
) -> None:
    configuration = accelerate.DataLoaderConfiguration(
        use_seedable_sampler=True, split_batches=split, data_seed=3
    )
    seeding = accelerate.Accelerator(cpu=True, dataloader_config=configuration)

    def prepare() -> Any:
        return seeding.prepare(hatchway.DataLoader(Numbers(), 4, shuffle=True, num_workers=1))

    stopped = prepare()
    assert sorted(numbers(stopped)) == list(range(30))  # its order depends on the epoch
    before, after = around_a_stop(stopped, prepare, num_batches=3)
    assert sorted(before + after) == list(range(30))


def stop_and_go_on(rank: Rank, **configured: bool) -> tuple[list[int], list[int]]:
    os.environ.update(
        RANK=f"{rank.number}",
        LOCAL_RANK=f"{rank.number}",
        WORLD_SIZE=f"{rank.size}",
        LOCAL_WORLD_SIZE=f"{rank.size}",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="0",  # the process group is there already
        ACCELERATE_USE_CPU="true",
        OMP_NUM_THREADS="1",
    )
    configuration = accelerate.DataLoaderConfiguration(**configured)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=configuration)

    def prepare() -> Any:
        return accelerator.prepare(hatchway.DataLoader(Numbers(40), 4, num_workers=1))

    return around_a_stop(prepare(), prepare, num_batches=2)


@pytest.mark.parametrize("configured", [{}, {"dispatch_batches": True}, {"split_batches": True}])
def test_each_of_two_processes_goes_on_with_what_it_was_not_given(
    configured: dict[str, bool],
) -> None:
    with ranks(2, partial(stop_and_go_on, **configured)) as those:
        parts = [part for before_and_after in those.hear_all() for part in before_and_after]
        those.join()
    assert sorted(itertools.chain(*parts)) == list(range(40))


def test_what_fills_up_the_last_batch_of_a_process_leaves_in_that_batch(accelerator: Any) -> None:
    # gather_for_metrics() cuts it off there: elsewhere it would stay, and a sample be lost.
    loader = hatchway.DataLoader(Waiting(1.0), batch_size=4, num_workers=2, order="ready")
    second = accelerate.data_loader.prepare_data_loader(loader, num_processes=2, process_index=1)
    expected = [[4, 5, 6, 7], [12, 13, 14, 15], [0, 1, 2, 3]]
    assert [batch.tolist() for batch in second] == expected


@pytest.mark.parametrize(
    ("num_samples", "process", "filled_from"),
    [(20, 1, 8), (20, 0, -1), (21, 0, -1), (17, 0, 8), (17, 1, 8), (24, 1, -1), (3, 0, 0)],
)
def test_only_a_batch_that_is_filled_up_waits(
    accelerator: Any, num_samples: int, process: int, filled_from: int
) -> None:
    loader = hatchway.DataLoader(Numbers(num_samples), batch_size=4, shuffle=True, num_workers=1)
    prepared = accelerate.data_loader.prepare_data_loader(
        loader, num_processes=2, process_index=process
    )
    assert accelerated.filled_from(prepared.base_dataloader) == filled_from
    prepared.batch_sampler.even_batches = False
    assert accelerated.filled_from(prepared.base_dataloader) == -1
    assert accelerated.filled_from(loader) == -1


def test_two_loaders_over_one_dataset_are_not_taken_for_each_other(accelerator: Any) -> None:
    data = Numbers()
    train = hatchway.DataLoader(data, batch_size=4, shuffle=True, slow_after_s=1.0)
    check = hatchway.DataLoader(data, batch_size=5, slow_after_s=2.0)
    stock = torch.utils.data.DataLoader(data, batch_size=6)
    ours = accelerator.prepare(train, check, stock)
    assert [type(one.base_dataloader) for one in ours] == [
        hatchway.DataLoader,
        hatchway.DataLoader,
        torch.utils.data.DataLoader,
    ]
    assert [one.slow_after_s for one in ours[:2]] == [1.0, 2.0]
    assert [next(iter(one)).shape[0] for one in ours] == [4, 5, 6]


@pytest.mark.parametrize(
    "arguments",
    [
        {"dataset": Stream(), "batch_size": 4},
        {"dataset": Numbers(), "batch_sampler": BatchSampler(range(30), 4, drop_last=False)},
    ],
    ids=["stream", "batch_sampler"],
)
def test_torchs_loader_with_the_same_arguments_stays_torchs(
    accelerator: Any, arguments: dict[str, Any]
) -> None:
    ours = [hatchway.DataLoader(**arguments, slow_after_s=seconds) for seconds in (1.0, 2.0)]
    stock = torch.utils.data.DataLoader(**arguments)
    one, left, other = accelerator.prepare(ours[0], stock, ours[1])
    assert type(left.base_dataloader) is torch.utils.data.DataLoader
    assert [one.slow_after_s, other.slow_after_s] == [1.0, 2.0]
    skipped = accelerate.skip_first_batches(left, 1)
    assert type(skipped.base_dataloader) is torch.utils.data.DataLoader
    assert accelerate.skip_first_batches(other, 1).slow_after_s == 2.0


def test_it_stays_where_accelerate_does_not_say_which_loader_it_was_given(
    accelerator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerated, "_given", lambda: None)
    data = Numbers()
    train = hatchway.DataLoader(data, batch_size=4, shuffle=True, slow_after_s=1.0)
    check = hatchway.DataLoader(data, batch_size=5, slow_after_s=2.0)
    ours = accelerator.prepare(train, check, torch.utils.data.DataLoader(data, batch_size=6))
    assert [getattr(one, "slow_after_s", None) for one in ours] == [1.0, 2.0, None]


def test_an_attribute_that_a_loader_lacks_is_an_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="'DataLoader' object has no attribute 'no_such'"):
        _ = hatchway.DataLoader([1]).no_such
