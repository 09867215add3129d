"""Ranks share workers where memory or descriptors are short: who is short says so, or goes on."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hatchway import DataLoader
from hatchway.loader import guests as guests_module
from hatchway.loader.board import BoardShape
from hatchway.loader.card import Card, Guest, Neighbour
from hatchway.loader.commons import Commons, CommonsConfig
from hatchway.loader.distant import started
from hatchway.loader.errors import BufferFullError
from hatchway.loader.guests import Guests
from hatchway.loader.rules import DeliveryRules
from hatchway.loader.shared import Bell, wait_readable
from hatchway.loader.shared_worker import Visited
from tests.real.ranks import CONTEXT, Made, Rank, ranks

pytestmark = pytest.mark.fault

SOON_S = 10.0


NUM_SMALL = 80


class Swelling(Made):
    """From some sample on rank 0's take its own worker long, and rank 1's much memory."""

    def __init__(self, num_samples: int, num_ranks: int) -> None:
        super().__init__(num_samples, num_ranks)
        self.rank_0 = CONTEXT.RawValue("q", 0)
        self.makers = [CONTEXT.RawArray("q", num_samples) for _ in range(num_ranks)]
        self.may_go = Bell()  # once rung it stays so: nobody silences it

    def __getitem__(self, index: int) -> Any:
        number, rank = divmod(index, self.num_ranks)
        is_late, is_own = number >= NUM_SMALL, os.getppid() == self.rank_0.value
        self.makers[rank][number] = os.getpid()
        if rank == 0 and is_late and is_own:
            wait_readable([self.may_go.fileno()], 40.0)
        if rank == 1:
            time.sleep(0.005)  # worth a visit
        return bytes(400_000 if rank == 1 and is_late else 10), *super().__getitem__(index)


def keep_all(samples: list[Any]) -> Any:
    return [sample[1] for sample in samples], b"".join(sample[0] for sample in samples)


def swell(rank: Rank, data: Swelling) -> str:
    loader: Any = DataLoader(
        data,
        4,
        sampler=range(rank.number, len(data), rank.size),
        num_workers=1,
        collate_fn=keep_all,
        buffer_bytes=1 << 20,
        share_workers=True,
        timeout=20,
    )
    if rank.number == 0:
        data.rank_0.value = os.getpid()
    iterator = iter(loader)
    next(iterator)
    rank.say(min(rank.own_workers()))
    try:
        for _ in range(rank.wait()):
            next(iterator)
    except BufferFullError:
        return "no room"
    rank.say("read")
    rank.wait()
    return "room"


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert holds()


def test_a_guest_that_is_elsewhere_is_not_waited_for_where_memory_is_short() -> None:
    data = Swelling(200, 2)
    with ranks(2, swell, data) as those:
        worker, _ = those.hear_all()
        wait_until(lambda: worker in data.makers[1])  # it was there,
        those.tell(0, NUM_SMALL // 4 - 2)
        wait_until(lambda: worker in data.makers[0][NUM_SMALL:])  # and has left
        those.tell(1, 40)
        assert those.hear(1) == "no room"
        data.may_go.ring()
        those.tell(0, "end")
        assert [those.hear(0), those.hear(0)] == ["read", "room"]
        those.join()
    data.may_go.close()


def make_board() -> tuple[Commons, Card]:
    rules = DeliveryRules(
        fixed=True, in_order=True, batch_size=2, drop_last=False, depth=2, rows_are_batch=True
    )
    shape = BoardShape(positions=8, homes=4, outgoing=4, members=2, workers=3, blocks=16)
    commons = Commons(CommonsConfig(shape, rules, 1 << 20))
    return commons, Card(num_guests=2)


def refuse(*_: Any) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_guest_that_cannot_be_watched_is_not_taken_for_one_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commons, card = make_board()
    guests = Guests(card, commons, first_id=1)
    guest = CONTEXT.Process(target=signal.pause)
    guest.start()
    assert guest.pid is not None
    with monkeypatch.context() as short:
        short.setattr(guests_module, "watch", refuse)
        card.guests[0, Guest.STARTED] = started(guest.pid)
        card.guests[0, Guest.PID] = guest.pid
        assert guests.gone() == []
    assert guests.gone() == []
    guest.kill()
    guest.join()
    assert [worker_id for worker_id, _ in guests.gone()] == [1]
    guest.close()
    guests.close()
    card.close()
    commons.close()


def test_a_worker_that_cannot_open_its_bell_leaves_its_seat_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Neighbour, "bell_of", refuse)
    commons, card = make_board()
    card.describe(commons, num_own=1, traits={})
    unused: Any = None
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        Visited(card.address, unused, [os.getpid(), started(os.getpid()), 0, 0, 0, 0])
    assert not commons.board.alive.array.any()
    assert not card.guests[:, Guest.PID].any()
    card.close()
    commons.close()


class Uneven(Made):
    """Every fourth sample of a rank is ten times as large: how much fits cannot be foreseen."""

    def __getitem__(self, index: int) -> Any:
        time.sleep(0.002)  # worth a visit
        num_bytes = 300_000 if index // self.num_ranks % 4 == 3 else 30_000
        return torch.full((num_bytes,), index % 251, dtype=torch.uint8), index


KEPT: list[tuple[torch.Tensor, int]] = []


def keep_some(samples: list[Any]) -> Any:
    """Keeps samples of earlier batches, and counts those that are not what they were."""
    num_spoiled = sum(not bool((sample == index % 251).all()) for sample, index in KEPT)
    KEPT.extend(samples)
    del KEPT[:-6]
    return [index for _, index in samples], num_spoiled


def look_back(rank: Rank) -> tuple[bool, int]:
    data = Uneven(150 * rank.size, rank.size)
    sampler = range(rank.number, len(data), rank.size)
    loader: Any = DataLoader(
        data,
        2,
        sampler=sampler,
        num_workers=2,
        collate_fn=keep_some,
        buffer_bytes=3 << 20,
        share_workers=True,
        timeout=40,
    )
    came, num_spoiled = [], 0
    torch.distributed.barrier()
    for indices, spoiled in loader:
        came += indices
        num_spoiled += spoiled
    return came == list(sampler), num_spoiled


def test_samples_that_a_guest_keeps_stay_what_they_are_where_memory_is_short() -> None:
    with ranks(2, look_back) as those:
        assert those.hear_all() == [(True, 0)] * 2
        those.join()
