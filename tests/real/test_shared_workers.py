"""Ranks of a gloo job that share their workers: each gets what is its own, all help."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DistributedSampler

from hatchway import DataLoader, Deferred, DeferredDataset
from tests.real.ranks import Made, Rank, ranks

pytestmark = pytest.mark.real


def sampler_of(rank: Rank, data: Made, *, shuffle: bool = True) -> Any:
    return DistributedSampler(data, rank.size, rank.number, shuffle=shuffle, seed=3)


def contents(batches: Any) -> list[tuple[int, float]]:
    """What each sample is and what it drew, without who made it."""
    return [
        (index, drawn)
        for indices, _, numbers in batches
        for index, drawn in zip(indices.tolist(), numbers.tolist(), strict=True)
    ]


def makers(batches: Any) -> set[int]:
    return {pid for _, pids, _ in batches for pid in pids.tolist()}


def compare_with_unshared(rank: Rank, order: str, persistent: bool) -> list[bool]:
    data = Made(24 * rank.size, rank.size, 0.002)
    sampler = sampler_of(rank, data)
    passes = []
    for shares in (False, True):
        torch.manual_seed(10 + rank.number)
        loader: Any = DataLoader(
            data,
            4,
            sampler=sampler,
            num_workers=1,
            order=order,
            persistent_workers=persistent,
            share_workers=shares,
            timeout=40,
        )
        made = []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            batches = contents(list(loader))
            assert sorted(index for index, _ in batches) == sorted(sampler)
            made.append(batches if order == "strict" else sorted(batches))
        loader._iterator = None
        passes.append(made)
        rank.say("done")
        rank.wait()
    return [one == other for one, other in zip(*passes, strict=True)]


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("order", ["strict", "ready"])
def test_each_rank_gets_its_samplers_positions_with_its_own_contents(
    order: str, persistent: bool, size: int
) -> None:
    with ranks(size, compare_with_unshared, order, persistent) as those:
        for _ in range(2):
            assert those.hear_all() == ["done"] * size
            for number in range(size):
                those.tell(number, "go on")
        assert those.hear_all() == [[True] * 3] * size
        those.join()


def help_a_slow_rank(rank: Rank, order: str, how: str = "fork") -> tuple[int, int]:
    data = Made(60 * rank.size, rank.size, 0.02)
    sampler = sampler_of(rank, data, shuffle=False)
    torch.manual_seed(rank.number)
    expected = contents(DataLoader(Made(len(data), rank.size), 4, sampler=sampler))
    torch.manual_seed(rank.number)
    loader: Any = DataLoader(
        data,
        4,
        sampler=sampler,
        num_workers=2,
        order=order,
        multiprocessing_context=how,
        share_workers=True,
        timeout=40,
    )
    iterator = iter(loader)
    batches = [next(iterator)]
    own = rank.own_workers()
    rank.say("begun")
    rank.wait()
    num_guests = 0
    for batch in iterator:
        batches.append(batch)
        num_guests = max(num_guests, loader.statistics().num_guests)
    assert sorted(contents(batches)) == expected
    return num_guests, len(makers(batches) - own)


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_workers_of_other_ranks_make_samples_of_the_slow_one(order: str) -> None:
    with ranks(3, help_a_slow_rank, order) as those:
        assert those.hear_all() == ["begun"] * 3
        those.tell(0, "go on")  # the others read nothing meanwhile
        num_guests, num_foreign_makers = those.hear(0)
        assert num_guests == 4
        assert num_foreign_makers == 4
        for number in (1, 2):
            those.tell(number, "go on")
            those.hear(number)
        those.join()


def test_workers_that_are_spawned_help_too() -> None:
    with ranks(2, help_a_slow_rank, "strict", "spawn") as those:
        assert those.hear_all() == ["begun"] * 2
        those.tell(0, "go on")
        assert those.hear(0) == (2, 2)
        those.tell(1, "go on")
        those.hear(1)
        those.join()


def end_early_or_validate(rank: Rank) -> list[int]:
    data = Made(40 * rank.size, rank.size, 0.005)
    numbers = []
    for epoch in range(3):
        train: Any = DataLoader(
            data,
            4,
            sampler=sampler_of(rank, data),
            num_workers=1,
            share_workers=True,
            timeout=40,
        )
        for number, _ in enumerate(train):
            if rank.number == 1 and number == epoch:
                break
        numbers.append(number + 1)
        if rank.number == 0:
            valid: Any = DataLoader(data, 8, num_workers=1, share_workers=True, timeout=40)
            assert [index for index, _ in contents(valid)] == list(range(len(data)))
    return numbers


def test_a_rank_that_ends_early_or_iterates_alone_stops_nobody() -> None:
    with ranks(2, end_early_or_validate) as those:
        assert those.hear_all() == [[10, 10, 10], [1, 2, 3]]
        those.join()


def stop_and_resume(rank: Rank) -> bool:
    data = Made(40 * rank.size, rank.size, 0.002)
    sampler = sampler_of(rank, data)

    def make() -> Any:
        return DataLoader(data, 4, sampler=sampler, num_workers=1, share_workers=True, timeout=40)

    loader = make()
    iterator = iter(loader)
    came = [next(iterator) for _ in range(4)]
    if rank.number == 0:
        state = loader.state_dict()
        del iterator
        loader = make()
        loader.load_state_dict(state)
        iterator = iter(loader)
    came += list(iterator)
    return sorted(index for index, _ in contents(came)) == sorted(sampler)


def test_a_rank_stops_in_the_middle_and_goes_on() -> None:
    with ranks(2, stop_and_resume) as those:
        assert those.hear_all() == [True, True]
        those.join()


class Shifted(Made):
    """A dataset whose samples depend on something that the ranks may not agree on."""

    shift = 0

    def __getitem__(self, index: int) -> tuple[int, int, float]:
        index, pid, _ = super().__getitem__(index)
        return index, pid, float(index + self.shift)


def differ(rank: Rank) -> tuple[list[str], int]:
    data = Shifted(40 * rank.size, rank.size, 0.005)
    data.shift = rank.number
    loader: Any = DataLoader(
        data,
        4,
        sampler=sampler_of(rank, data),
        num_workers=1,
        persistent_workers=True,
        share_workers=True,
        timeout=40,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        iterator = iter(loader)
        rank.say("begun")
        rank.wait()
        batches = list(iterator)
    batches += list(loader)
    assert all(value == index + rank.number for index, value in contents(batches))
    num_guests = loader.statistics().num_guests
    loader._iterator = None
    return [str(warning.message) for warning in caught], num_guests


def test_ranks_with_datasets_that_differ_share_nothing_and_say_so_once() -> None:
    with ranks(2, differ) as those:
        assert those.hear_all() == ["begun", "begun"]
        for number in range(2):
            those.tell(number, "go on")
        said = those.hear_all()
        those.join()
    assert [num_guests for _, num_guests in said] == [0, 0]
    texts = [text for texts, _ in said for text in texts]
    assert len(texts) in (1, 2)  # the second one to come finds out, or both at the same time
    assert all("dataset.shift is not the same in process" in text for text in texts)


class Large(Made):
    """A sample takes a good part of the buffer, and its size cannot be foreseen."""

    def __getitem__(self, index: int) -> Any:
        made = super().__getitem__(index)
        return bytes(300_000 if index > 7 * self.num_ranks else 10), *made


def keep_first(samples: list[Any]) -> Any:
    return [sample[1] for sample in samples], sum(len(sample[0]) for sample in samples)


def read_slowly(rank: Rank) -> bool:
    data = Large(30 * rank.size, rank.size)
    loader: Any = DataLoader(
        data,
        2,
        sampler=sampler_of(rank, data, shuffle=False),
        num_workers=2,
        collate_fn=keep_first,
        buffer_bytes=3 << 20,
        share_workers=True,
        timeout=40,
    )
    iterator = iter(loader)
    came = list(next(iterator)[0])
    rank.say("begun")
    rank.wait()
    for indices, _ in iterator:
        came += indices
    return came == list(loader.sampler)


def test_a_rank_that_does_not_read_and_is_full_holds_no_workers_of_another() -> None:
    with ranks(2, read_slowly) as those:
        assert those.hear_all() == ["begun", "begun"]
        for number in range(2):
            those.tell(number, "go on")
            assert those.hear(number)
        those.join()


def by_environment(rank: Rank) -> int:
    os.environ["HATCHWAY_SHARE_WORKERS"] = "1"
    return help_a_slow_rank_by_default(rank)


def help_a_slow_rank_by_default(rank: Rank) -> int:
    data = Made(20 * rank.size, rank.size, 0.01)
    loader: Any = DataLoader(data, 4, sampler=sampler_of(rank, data), num_workers=1, timeout=40)
    iterator = iter(loader)
    next(iterator)
    rank.say("begun")
    rank.wait()
    num_guests = 0
    for _ in iterator:
        num_guests = max(num_guests, loader.statistics().num_guests)
    return num_guests


@pytest.mark.parametrize(
    ("body", "expected"), [(by_environment, 1), (help_a_slow_rank_by_default, 0)]
)
def test_the_environment_says_so_where_the_argument_is_left_out(body: Any, expected: int) -> None:
    with ranks(2, body) as those:
        assert those.hear_all() == ["begun", "begun"]
        those.tell(0, "go on")
        assert those.hear(0) == expected
        those.tell(1, "go on")
        those.hear(1)
        those.join()


def test_a_process_that_is_alone_shares_with_nobody() -> None:
    loader: Any = DataLoader(Made(40, 1), 4, num_workers=2, share_workers=True, timeout=40)
    iterator = iter(loader)
    next(iterator)
    assert "@hatchway." not in Path("/proc/net/unix").read_text()
    assert loader.statistics().num_workers == 2
    assert iterator._board.shape.workers == 2


class Counted(DeferredDataset[Any]):
    """A stream of which each rank reads its share; what is deferred takes its time."""

    def __init__(self, num_samples: int, seconds: float) -> None:
        self.num_samples, self.seconds = num_samples, seconds

    def __iter__(self) -> Any:
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        for number in range(rank, self.num_samples, size):
            yield Deferred(count, number, self.seconds if rank == 0 else 0.0)


def count(number: int, seconds: float) -> tuple[int, int, float]:
    time.sleep(seconds)  # it waits, as for a network: no core is busy
    return number, os.getpid(), 0.0


def read_a_stream(rank: Rank) -> tuple[bool, int]:
    data = Counted(60 * rank.size, 0.02)
    loader: Any = DataLoader(data, 4, num_workers=2, share_workers=True, timeout=40)
    iterator = iter(loader)
    batches = [next(iterator)]
    rank.say("begun")
    rank.wait()
    num_guests = 0
    for batch in iterator:
        batches.append(batch)
        num_guests = max(num_guests, loader.statistics().num_guests)
    numbers = [number for number, _ in contents(batches)]
    return numbers == list(range(rank.number, data.num_samples, rank.size)), num_guests


def test_what_a_rank_read_from_its_stream_others_finish() -> None:
    with ranks(2, read_a_stream) as those:
        assert those.hear_all() == ["begun"] * 2
        those.tell(0, "go on")
        assert those.hear(0) == (True, 2)
        those.tell(1, "go on")
        assert those.hear(1)[0]
        those.join()


def refuse_on_rank_0(worker_id: int) -> None:
    if torch.distributed.get_rank() == 0:
        raise ValueError(f"worker {worker_id} finds no licence here")


def begin_badly(rank: Rank) -> tuple[int, int]:
    data = Made(40 * rank.size, rank.size)
    loader: Any = DataLoader(
        data,
        4,
        sampler=sampler_of(rank, data),
        num_workers=1,
        worker_init_fn=refuse_on_rank_0,
        share_workers=True,
        timeout=40,
    )
    iterator = iter(loader)
    num_failed, came = 0, []
    rank.say("begun")
    rank.wait()
    while True:
        try:
            came += next(iterator)[0].tolist()
        except StopIteration:
            return num_failed, len(set(came))
        except ValueError:
            num_failed += 1


def test_a_worker_that_could_not_begin_goes_to_no_other_rank() -> None:
    with ranks(2, begin_badly) as those:
        assert those.hear_all() == ["begun"] * 2
        those.tell(1, "go on")
        assert those.hear(1) == (0, 40)
        those.tell(0, "go on")
        num_failed, num_made = those.hear(0)
        assert num_failed > 0
        assert num_failed + num_made <= 40
        those.join()
