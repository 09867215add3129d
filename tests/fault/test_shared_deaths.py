"""Ranks share workers, and some of them die: the others finish, and nothing is left."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import DistributedSampler

from hatchway import DataLoader
from hatchway.loader.shared import Bell, wait_readable
from tests.real.ranks import Made, Rank, Ranks, ranks

pytestmark = pytest.mark.fault

SOON_S = 10.0


def run(rank: Rank, order: str, seconds: float) -> tuple[bool, int]:
    """A pass that stands still for a word of the test after its first batch."""
    data = Made(60 * rank.size, rank.size, seconds)
    loader: Any = DataLoader(
        data,
        4,
        sampler=DistributedSampler(data, rank.size, rank.number, shuffle=True, seed=5),
        num_workers=2,
        order=order,
        share_workers=True,
        timeout=40,
    )
    iterator = iter(loader)
    came = next(iterator)[0].tolist()
    rank.say(sorted(rank.own_workers()))
    rank.wait()
    for indices, _, _ in iterator:
        came += indices.tolist()
    return sorted(came) == sorted(loader.sampler), loader.statistics().num_restarts


def go_on(those: Ranks, but: int = -1) -> None:
    for number in range(len(those.pipes)):
        if number != but:
            those.tell(number, "go on")


def no_signs() -> bool:
    """Whether nobody says where the card of a process that is gone is.

    Other jobs may run on the machine meanwhile.
    """
    names = re.findall(r"@hatchway\.[0-9a-f]+\.([0-9]+)\.", Path("/proc/net/unix").read_text())
    return all(psutil.pid_exists(int(pid)) for pid in names)


def all_gone(pids: list[int]) -> bool:
    processes = []
    for pid in pids:
        try:
            processes.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(processes, timeout=SOON_S)
    return not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("order", ["strict", "ready"])
def test_a_worker_of_each_rank_is_killed_in_the_middle(order: str, size: int) -> None:
    with ranks(size, run, order, 0.005) as those:
        workers = those.hear_all()
        go_on(those)
        for own in workers:
            os.kill(own[0], signal.SIGKILL)
        for is_whole, num_restarts in those.hear_all():
            assert is_whole
            # A loop that does not sleep, since others do the work, may not see the death.
            assert num_restarts <= 1
        those.join()
    assert no_signs()


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("order", ["strict", "ready"])
def test_a_rank_is_killed_in_the_middle(order: str, size: int) -> None:
    with ranks(size, run, order, 0.005) as those:
        workers = those.hear_all()
        go_on(those)
        those.processes[0].kill()  # the slow one, for which all work
        for number in range(1, size):
            assert those.hear(number) == (True, 0)
        those.join()
        assert all_gone(workers[0])
    assert all_gone([pid for own in workers for pid in own])
    assert no_signs()


class Deadly(Made):
    """The first worker that comes to a sample of rank 0's dies of it."""

    left = multiprocessing.get_context("fork").RawValue("i", 1)

    def __getitem__(self, index: int) -> Any:
        if index == 40 * self.num_ranks and self.left.value:
            self.left.value -= 1
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def run_deadly(rank: Rank, persistent: bool) -> list[bool]:
    data = Deadly(60 * rank.size, rank.size, 0.003)
    loader: Any = DataLoader(
        data,
        4,
        sampler=DistributedSampler(data, rank.size, rank.number, shuffle=False),
        num_workers=1,
        persistent_workers=persistent,
        share_workers=True,
        timeout=40,
    )
    wholes = []
    for _ in range(3):
        came = [index for indices, _, _ in loader for index in indices.tolist()]
        wholes.append(came == list(loader.sampler))
    loader._iterator = None
    return wholes


@pytest.mark.parametrize("persistent", [False, True])
def test_whichever_ranks_worker_dies_of_a_sample_it_is_made_again(persistent: bool) -> None:
    Deadly.left.value = 1
    with ranks(2, run_deadly, persistent) as those:
        assert those.hear_all() == [[True] * 3] * 2
        those.join()
    assert Deadly.left.value == 0
    assert no_signs()


class Stuck(Made):
    """A sample of rank 0's takes long while it is told to; who is at it is said."""

    def __init__(self, num_samples: int, num_ranks: int) -> None:
        super().__init__(num_samples, num_ranks)
        self.at = multiprocessing.get_context("fork").RawArray("q", num_samples)
        self.may_go = Bell()  # once rung it stays so: nobody silences it

    def __getitem__(self, index: int) -> Any:
        if index % self.num_ranks == 0 and index // self.num_ranks >= 8:
            self.at[index] = os.getpid()
            wait_readable([self.may_go.fileno()], 30.0)
        return super().__getitem__(index)


def run_stuck(rank: Rank, data: Stuck) -> tuple[bool, int]:
    loader: Any = DataLoader(
        data,
        4,
        sampler=DistributedSampler(data, rank.size, rank.number, shuffle=False),
        num_workers=2,
        share_workers=True,
        timeout=40,
    )
    iterator = iter(loader)
    came = next(iterator)[0].tolist()
    rank.say(sorted(rank.own_workers()))
    rank.wait()
    if rank.number == 1:
        del iterator  # stops its workers, wherever they are
        return True, 0
    num_blamed = 0
    for indices, _, _ in iterator:
        came += indices.tolist()
        num_blamed = max(num_blamed, int(iterator._board.attempts.array.max()))
    return came == list(loader.sampler), num_blamed


def wait_for_guests(those: Ranks, data: Stuck) -> list[int]:
    """Until all workers of rank 1 are at slow samples of rank 0; who they are."""
    guests: list[int] = those.hear_all()[1]
    deadline = time.monotonic() + SOON_S
    while not set(guests) <= set(data.at) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(guests) <= set(data.at), "the guests are not at the slow samples"
    return guests


def test_a_sample_is_not_to_blame_for_a_worker_that_its_own_rank_stops() -> None:
    data = Stuck(80, 2)
    with ranks(2, run_stuck, data) as those:
        wait_for_guests(those, data)
        those.tell(1, "end")
        assert those.hear(1) == (True, 0)  # after its workers' time of grace
        data.may_go.ring()
        those.tell(0, "go on")
        assert those.hear(0) == (True, 0)
        those.join()
    data.may_go.close()
    assert no_signs()


def test_workers_whose_rank_is_killed_hand_in_what_they_are_at_and_end() -> None:
    data = Stuck(80, 2)
    with ranks(2, run_stuck, data) as those:
        guests = wait_for_guests(those, data)
        those.processes[1].kill()
        data.may_go.ring()
        assert all_gone(guests)
        those.tell(0, "go on")
        assert those.hear(0) == (True, 0)
        those.processes[0].join()
    data.may_go.close()
    assert no_signs()


def descriptors() -> list[str]:
    """The descriptors of boards and cards that this process has, sorted."""
    names = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            names.append(os.readlink(link))
        except OSError:
            continue
    return sorted(name for name in names if "hatchway" in name)


def leave_something_behind(rank: Rank) -> tuple[list[str], list[str]]:
    """What a rank had before its pass, from the process that it was forked from, and after."""
    before = descriptors()
    data = Made(40 * rank.size, rank.size, 0.002)
    sampler = DistributedSampler(data, rank.size, rank.number)
    loader: Any = DataLoader(data, 4, sampler=sampler, num_workers=1, share_workers=True)
    torch.distributed.barrier()
    sum(len(indices) for indices, _, _ in loader)
    torch.distributed.barrier()
    return before, descriptors()


def test_a_rank_that_has_ended_its_pass_holds_nothing() -> None:
    with ranks(2, leave_something_behind) as those:
        for before, after in those.hear_all():
            assert after == before
        those.join()
    assert no_signs()
