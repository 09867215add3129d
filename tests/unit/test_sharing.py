"""How ranks find each other, and whether their workers may stand in for each other."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import socket
import tracemalloc
import types
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from hatchway import DataLoader
from hatchway.loader import rendezvous
from hatchway.loader.card import Address, Card, Neighbour, is_there
from hatchway.loader.distant import Distant, DistantBell, started, watch
from hatchway.loader.likeness import difference, traits_of
from hatchway.loader.rendezvous import AgreedName, Job, Places, Sign, job_here
from hatchway.loader.shared import Bell, wait_readable
from hatchway.loader.sharing import Sharing

FORK = multiprocessing.get_context("fork")


class Files(Dataset[Any]):
    def __init__(self, names: list[str], **others: Any) -> None:
        self.names = names
        vars(self).update(others)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> str:
        return self.names[index]


def unlike(one: Dataset[Any], other: Dataset[Any], **arguments: Any) -> str:
    return difference(traits_of(DataLoader(one)), traits_of(DataLoader(other, **arguments)))


NAMES = [f"{number}.png" for number in range(1000)]


def test_datasets_that_were_made_alike_are_alike() -> None:
    def make() -> Files:
        return Files(
            list(NAMES),
            root=Path("/data"),
            mean=torch.zeros(3),
            table={"a": [1, 2.5, None]},
            inner=Files(["x"], transform=partial(str.upper)),
        )

    assert unlike(make(), make()) == ""


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Files(NAMES[1:]), "dataset (length)"),
        (Files([*NAMES[1:], "other.png"], epoch=2), "dataset.names"),
        (Files(NAMES, epoch=3), "dataset.epoch"),
        (Files(NAMES, epoch=2, mean=np.zeros(3)), "dataset.mean"),
    ],
)
def test_what_differs_is_named(other: Files, expected: str) -> None:
    assert unlike(Files(NAMES, epoch=2), other) == expected


def test_arguments_that_change_samples_are_compared() -> None:
    assert unlike(Files(NAMES), Files(NAMES), collate_fn=list) == "collate_fn"
    assert unlike(Files(NAMES), Files(NAMES), seeding="torch") == "seeding"
    assert unlike(Files(NAMES), Files(NAMES), batch_size=7) == ""


def collate_up_to(longest: int, samples: list[str]) -> list[str]:
    return [sample[:longest] for sample in samples]


class Collator:
    def __init__(self, words: str, longest: int = 8) -> None:
        self.words, self.longest = words, longest

    def __call__(self, samples: list[str]) -> list[str]:
        return collate_up_to(self.longest, samples)

    def collate(self, samples: list[str]) -> list[str]:
        return collate_up_to(self.longest, samples)


def collate_within(longest: int) -> Any:
    return lambda samples: collate_up_to(longest, samples)


@pytest.mark.parametrize(
    "make",
    [
        partial(partial, collate_up_to),
        collate_within,
        lambda longest: Collator("", longest),
        lambda longest: Collator("", longest).collate,
    ],
    ids=["partial", "closure", "object", "method"],
)
def test_a_function_is_compared_with_what_it_was_given(make: Any) -> None:
    def compare(one: int, other: int) -> str:
        loaders = (DataLoader(Files(NAMES), collate_fn=make(longest)) for longest in (one, other))
        return difference(*map(traits_of, loaders))

    assert compare(3, 3) == ""
    assert compare(3, 4) == "collate_fn"
    assert unlike(Files(NAMES, transform=make(3)), Files(NAMES, transform=make(3))) == ""
    assert unlike(Files(NAMES, transform=make(3)), Files(NAMES, transform=make(4))) != ""


def test_numbers_of_numpy_are_compared() -> None:
    one, other = Files(NAMES, shift=np.int64(1)), Files(NAMES, shift=np.int64(2))
    assert unlike(one, other) == "dataset.shift"


def test_long_texts_are_compared_by_their_ends() -> None:
    long = bytes(1 << 24)
    tracemalloc.start()
    try:
        assert unlike(Files(NAMES, packed=long), Files(NAMES, packed=long[:-1] + b"1")) != ""
        assert tracemalloc.get_traced_memory()[1] < 3 * len(long)  # the comparison took none
    finally:
        tracemalloc.stop()


def test_what_a_card_says_has_room_on_it_whatever_the_loader_is_made_with() -> None:
    names = {f"{number}{'x' * 5000}": number for number in range(64)}
    loader = DataLoader(Files(NAMES, **names), collate_fn=Collator("word " * 50_000))
    assert len(json.dumps(traits_of(loader))) < 20_000


def test_a_loader_is_told_by_the_line_that_made_it() -> None:
    places = Places()
    one, other = (places.next() for _ in range(2))
    assert (one.partition("#")[0], one[-2:], other[-2:]) == (other.partition("#")[0], "#1", "#2")
    assert places.next().partition("#")[0] != one.partition("#")[0]
    assert __file__ in DataLoader(NAMES).bond.place  # type: ignore[arg-type]


def test_a_job_is_told_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert job_here(AgreedName()) is None
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert job_here(AgreedName()) is None
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert job_here(AgreedName()) == Job("here/29500/", 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert job_here(AgreedName()) is None


def test_a_process_group_is_asked_once_for_the_name_of_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Group: ...

    class Store:
        num_asked = 0

        def compare_set(self, key: str, expected: str, desired: str) -> bytes:
            Store.num_asked += 1
            return b"chosen"

    distributed = torch.distributed
    monkeypatch.setattr(distributed.distributed_c10d, "_get_default_store", Store)
    groups = types.SimpleNamespace(WORLD=Group())
    monkeypatch.setattr(distributed, "group", groups)
    agreed = AgreedName()
    assert [agreed.of_group(), agreed.of_group(), Store.num_asked] == ["chosen", "chosen", 1]
    groups.WORLD = Group()
    assert [agreed.of_group(), Store.num_asked] == ["chosen", 2]


def test_signs_of_one_topic_find_each_other_and_vanish() -> None:
    addresses = [Address(number, 5, 6, 7) for number in range(3)]
    signs = [Sign("a topic", address) for address in addresses[:2]]
    stranger = Sign("another topic", addresses[2])
    assert signs[0].others() == addresses[1:2]
    assert signs[1].others() == addresses[:1]
    signs[1].close()
    assert signs[0].others() == stranger.others() == []
    for sign in (signs[0], stranger):
        sign.close()


@pytest.mark.parametrize(
    "rest", ["", "1.2.3", "1.2.3.4.5", "1.2.x.4", f"1.2.3.{'9' * 20}", "-1.2.3.4"]
)
def test_names_that_only_begin_like_a_sign_are_passed_over(rest: str) -> None:
    sign = Sign("a topic", Address(1, 5, 6, 7))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as somebody:
        somebody.bind(f"{sign._prefix}{rest}".replace("@", "\0", 1))
        assert sign.others() == []
    sign.close()


def test_without_a_list_of_names_nobody_is_found_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "unix").write_text("Num RefCount Protocol Flags Type St Inode Path\n")
    monkeypatch.setattr(rendezvous, "_NAMES", tmp_path / "unix")
    with pytest.raises(OSError, match="does not list"):
        Sign("a topic", Address(1, 2, 3, 4))


def test_a_card_is_found_while_it_is_open_and_by_its_nonce_only() -> None:
    card = Card(num_guests=2)
    address = card.address
    assert not is_there(address)  # nothing is written on it yet
    assert not is_there(Address(address.pid, address.descriptor, address.inode, 1))
    card.close()
    with pytest.raises(OSError, match=r"."):
        Neighbour(address)


def test_a_descriptor_that_is_something_else_by_now_is_not_opened(tmp_path: Path) -> None:
    bell, me = Bell(), Distant(os.getpid())
    read, write = bell.ends
    distant = DistantBell(me, write, os.fstat(write).st_ino)
    distant.ring()
    assert wait_readable([read], 0) == [read]
    file = os.open(tmp_path / "a file", os.O_CREAT | os.O_RDWR)
    os.dup2(file, write)
    distant.ring()
    assert os.fstat(file).st_size == 0
    os.close(file)
    bell.close()
    me.close()


def test_a_process_that_ended_is_not_taken_for_another() -> None:
    process = FORK.Process(target=signal.pause)
    process.start()
    assert process.pid is not None
    other, ended = Distant(process.pid), watch(process.pid)
    assert 0 < started(os.getpid()) <= started(process.pid)
    process.kill()
    process.join()
    assert wait_readable([ended], 10.0) == [ended]
    with pytest.raises(OSError, match=r"."):
        other.open(0, os.fstat(0).st_ino, os.O_RDONLY)
    other.close()
    os.close(ended)
    process.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"worker_type": "thread"}, "needs worker_type='process', not 'thread'"),
        ({"worker_type": "auto"}, "needs worker_type='process', not 'auto'"),
        ({"num_workers": "auto"}, "not num_workers='auto'"),
        ({"max_background_workers": 2}, "max_background_workers=2 has no meaning"),
    ],
)
def test_what_cannot_be_shared_is_said(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DataLoader(Files(NAMES), share_workers=True, **{"num_workers": 2, **arguments})


def test_the_environment_means_those_loaders_that_can_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HATCHWAY_SHARE_WORKERS", "1")

    def wants(**arguments: Any) -> bool:
        return DataLoader(Files(NAMES), **{"num_workers": 2, **arguments}).wants_shared_workers

    assert wants()
    assert not wants(share_workers=False)
    assert not wants(num_workers=0)
    assert not wants(num_workers="auto")
    assert not wants(worker_type="thread")
    assert not wants(max_background_workers=1)
    monkeypatch.setenv("HATCHWAY_SHARE_WORKERS", "0")
    assert not wants()
    with pytest.raises(TypeError, match="share_workers must be a bool or None"):
        wants(share_workers="yes")


def test_guests_leave_the_training_process_most_of_its_descriptors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loader = DataLoader(Files(NAMES), num_workers=1, share_workers=True)

    def num_guests(descriptors: int) -> int:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
        return Sharing(loader, Job("a job", 13)).num_guests

    assert [num_guests(most) for most in (64, 1024, resource.RLIM_INFINITY)] == [8, 12, 12]


def test_where_the_system_cannot_it_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delattr(os, "pidfd_open")
    loader = DataLoader(Files(NAMES[:8]), 4, num_workers=1, share_workers=True, timeout=40)
    with pytest.warns(UserWarning, match="share_workers has no effect here") as caught:
        assert len(list(loader)) == len(list(loader)) == 2
    assert len(caught) == 1


def test_ranks_that_do_not_know_their_job_share_nothing_and_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    loader = DataLoader(Files(NAMES[:8]), 4, num_workers=1, share_workers=True, timeout=40)
    with pytest.warns(UserWarning, match="nothing says which job this process is a rank of"):
        assert len(list(loader)) == 2
