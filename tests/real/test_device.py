"""Batches arrive on a device as they would have arrived, copied ahead where they are ready.

On the CPU, where a copy is private memory; and through the streams, events and registered
blocks of a GPU with a recording fake of CUDA beneath them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, IterableDataset

from hatchway import DataLoader
from hatchway.loader.board import Outgoing
from tests.property import nests
from tests.real.arriving import KINDS, give_device, is_next_ready, load
from tests.real.gates import CONTEXT, Gated, numbers, until
from tests.real.places import is_shared
from tests.real.resumable import make, pickled, rows_of
from tests.real.shapes import NUM_SAMPLES, SHAPES, Samples, as_list, frozen
from tests.recorder import RecordingCuda

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc/self/maps"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true"),
]


@pytest.fixture(params=KINDS, autouse=True)
def cudas(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[RecordingCuda]:
    return give_device(request.param, monkeypatch)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("name", [name for name in SHAPES if name != "failing"])
def test_batches_are_what_they_are_without_a_device(name: str, num_workers: int) -> None:
    shape = SHAPES[name]
    arguments = {"collate_fn": shape.collate_fn, "num_workers": num_workers}
    stock = torch.utils.data.DataLoader(
        Samples(shape.make), 4, collate_fn=shape.collate_fn, num_workers=0
    )
    expected = [frozen(batch) for batch in stock]
    loader = load(Samples(shape.make), order="strict", **arguments)
    assert [frozen(batch) for batch in loader] == expected
    samples = sorted(repr(frozen(shape.make(number))) for number in range(NUM_SAMPLES))
    loader = load(Samples(shape.make), None, order="ready", num_workers=num_workers, collate_fn=own)
    assert sorted(repr(frozen(sample)) for sample in loader) == samples


def own(sample: Any) -> Any:
    return sample


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(
    samples=st.lists(
        nests.nests(st.one_of(nests.tensors(), nests.arrays(), nests.scalars)),
        min_size=1,
        max_size=5,
    )
)
def test_any_nest_arrives_as_it_was(samples: list[Any]) -> None:
    loader = load(samples, 2, num_workers=1, order="strict", collate_fn=as_list)
    assert nests.same([sample for batch in loader for sample in batch], samples)


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_no_tensor_of_a_batch_lies_in_the_buffer(order: str, batch_size: int | None) -> None:
    kept = []
    for batch in load(torch.arange(4000).view(40, 100), batch_size, order=order):
        assert not is_shared(batch.data_ptr())
        kept.append(batch)
    rows = torch.cat([batch.view(-1, 100) for batch in kept])
    assert sorted(rows[:, 7].tolist()) == list(range(7, 4000, 100))


class Point(NamedTuple):
    x: torch.Tensor
    name: str


@dataclass
class Scan:
    values: torch.Tensor
    points: list[Point]


class Moves:
    """A class of the user's that moves itself."""

    def __init__(self, values: torch.Tensor, has_moved: bool = False) -> None:
        self.values = values
        self.has_moved = has_moved

    def to(self, device: torch.device, non_blocking: bool = False) -> Moves:
        return Moves(self.values.to(device, copy=True), has_moved=device.type == "cpu")


class Stays:
    """One that does not."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values


def assorted(number: int) -> Any:
    values = torch.full((300,), number)
    return {
        "scan": Scan(values, [Point(values + 1, "a"), Point(values + 2, "b")]),
        "moves": Moves(values),
        "stays": Stays(values),
        "array": np.full((300,), number),
        "leaf": torch.ones(3, requires_grad=True),
        "sparse": torch.eye(3).to_sparse(),
        "packed": torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)]),
        "text": ("text", b"bytes", None, {number}),
    }


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("order", ["strict", "ready"])
def test_structure_is_kept_and_what_moves_itself_is_moved(order: str, num_workers: int) -> None:
    loader = load(
        Samples(assorted, 12), 3, order=order, num_workers=num_workers, collate_fn=as_list
    )
    samples = [sample for batch in loader for sample in batch]
    assert sorted(int(sample["stays"].values[0]) for sample in samples) == list(range(12))
    for sample in samples:
        number = int(sample["stays"].values[0])
        scan = sample["scan"]
        assert (type(scan), type(scan.points[0])) == (Scan, Point)
        assert [int(part[0]) for part in (scan.values, *(point.x for point in scan.points))] == [
            number,
            number + 1,
            number + 2,
        ]
        assert [point.name for point in scan.points] == ["a", "b"]
        assert sample["moves"].has_moved
        assert int(sample["moves"].values[299]) == int(sample["array"][299]) == number
        assert (sample["leaf"].is_leaf, sample["leaf"].requires_grad) == (True, True)
        assert torch.equal(sample["sparse"].to_dense(), torch.eye(3))
        assert sample["packed"].data.tolist() == [1.0] * 5
        assert sample["text"] == ("text", b"bytes", None, {number})
        assert not is_shared(scan.points[1].x.data_ptr())


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_the_next_batch_is_copied_ahead_if_it_is_ready(order: str) -> None:
    loader = load(torch.arange(24), order=order)
    iterator = iter(loader)
    for number in range(5):
        assert is_next_ready(iterator)
        next(iterator)
        assert loader.statistics().num_batches_ahead == max(0, number)
    list(iterator)
    assert loader.statistics().num_batches_ahead == 5
    assert loader.statistics().num_batches == 6


def test_nothing_is_waited_for_to_be_copied_ahead() -> None:
    dataset = Gated(8, held=[4, 5, 6, 7])
    loader = load(dataset, order="strict", multiprocessing_context=CONTEXT)
    iterator = iter(loader)
    assert numbers(next(iterator)) == [0, 1, 2, 3]  # would never return
    dataset.gate.set()
    assert numbers(next(iterator)) == [4, 5, 6, 7]
    assert loader.statistics().num_batches_ahead == 0


def test_a_batch_that_was_copied_ahead_and_is_overtaken_waits_for_its_turn() -> None:
    dataset = Gated(5, held=[2])
    loader = load(
        dataset,
        1,
        batch_sampler=[[number] for number in range(5)],
        order="ready",
        multiprocessing_context=CONTEXT,
    )
    iterator = iter(loader)
    board = iterator._board
    came = numbers(next(iterator))
    assert until(lambda: board.out_status.cells[3] == Outgoing.READY)
    came += numbers(next(iterator))  # looks ahead at the fourth, since the third is held
    assert iterator._inbox._early is not None
    dataset.gate.set()
    assert until(lambda: board.out_status.cells[2] == Outgoing.READY)
    num_ahead = loader.statistics().num_batches_ahead
    came += numbers(next(iterator))
    assert loader.statistics().num_batches_ahead == num_ahead
    came += numbers(next(iterator))
    assert loader.statistics().num_batches_ahead == num_ahead + 1
    assert came == [0, 1, 2, 3]
    assert numbers(next(iterator)) == [4]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("order", ["strict", "ready"])
def test_what_was_copied_ahead_is_not_delivered_by_the_state(order: str, num_workers: int) -> None:
    def build(**arguments: Any) -> DataLoader[Any]:
        return make("generator", order=order, device="cpu", **arguments)

    whole = rows_of(build(num_workers=num_workers))
    loader = build(num_workers=num_workers)
    iterator, before, states = iter(loader), [], []
    for _ in range(12):
        if num_workers and len(states) < 11:
            assert is_next_ready(iterator)
        before.append(rows_of([next(iterator)]))
        states.append(pickled(loader.state_dict()))
    assert loader.statistics().num_batches_ahead == (11 if num_workers else 0)
    for number in (0, 1, 5, 10, 11):
        again = build(num_workers=num_workers)
        again.load_state_dict(states[number])
        rows = list(itertools.chain(*before[: number + 1])) + rows_of(again)
        assert sorted(rows) == sorted(whole)
        assert order == "ready" or rows == whole


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_pass_is_whole_and_ends_once(num_workers: int) -> None:
    persistent = num_workers > 0
    loader = load(list(range(22)), num_workers=num_workers, persistent_workers=persistent)
    for _ in range(3):
        iterator = iter(loader)
        assert [len(batch) for batch in iterator] == [4, 4, 4, 4, 4, 2]
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(iterator)
    loader._iterator = None


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_pass_that_is_left_leaves_nothing_in_the_next(order: str, persistent: bool) -> None:
    loader = load(torch.arange(24), order=order, persistent_workers=persistent)
    for num_taken in (1, 2, 4):
        iterator = iter(loader)
        for _ in range(num_taken):
            assert is_next_ready(iterator)
            next(iterator)
        assert iterator._inbox._early is not None
        del iterator
        assert sorted(torch.cat(list(loader)).tolist()) == list(range(24))
    loader._iterator = None


class Ragged(Dataset[Any]):
    """Samples of many sizes, so that blocks of one size give way to others."""

    def __len__(self) -> int:
        return 120

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.full((1000 + 997 * (number * 7 % 31),), number)


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_batches_of_every_size_go_through_a_small_buffer(order: str) -> None:
    loader = load(Ragged(), 4, collate_fn=as_list, order=order, buffer_bytes=4 << 20)
    found = []
    for batch in loader:
        for sample in batch:
            assert (sample == sample[0]).all()
            found.append(int(sample[0]))
    assert sorted(found) == list(range(120))
    assert loader.statistics().buffer_peak_bytes <= 4 << 20


def test_the_memory_of_a_batch_is_free_once_it_is_copied_although_the_copy_is_kept() -> None:
    loader = load(torch.zeros(400, 2048), buffer_bytes=2 << 20)
    kept = list(loader)
    statistics = loader.statistics()
    assert statistics.num_copied_batches == 0
    assert statistics.buffer_used_bytes == 0
    assert len(kept) == 100


def test_arrays_that_stay_in_the_buffer_keep_their_memory() -> None:
    loader = load(Samples(lambda n: np.full((500,), n), 80), None, collate_fn=own, order="strict")
    kept = list(loader)
    assert all(is_shared(sample.ctypes.data) for sample in kept)
    assert [int(sample[499]) for sample in kept] == list(range(80))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return ({"x": torch.tensor([n]), "n": n} for n in range(7))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("persistent", [False, True])
def test_iterable_datasets_arrive_too(num_workers: int, persistent: bool) -> None:
    if persistent and not num_workers:
        return
    loader = load(Stream(), 3, num_workers=num_workers, persistent_workers=persistent)
    for _ in range(2):
        batches = list(loader)
        assert [batch["n"].tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
        assert torch.cat([batch["x"] for batch in batches]).flatten().tolist() == list(range(7))
    loader._iterator = None


@pytest.mark.parametrize("num_workers", [0, 2])
def test_pin_memory_beside_a_device_does_nothing(
    num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("pinned a batch that is on its device")

    monkeypatch.setattr(torch.utils.data._utils.pin_memory, "pin_memory", refuse)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    loader = load(list(range(9)), 3, num_workers=num_workers, pin_memory=True)
    assert [batch.tolist() for batch in loader] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_every_batch_is_handed_over_in_order_with_the_callers_stream(
    cudas: list[RecordingCuda],
) -> None:
    loader = load(torch.arange(4 * 2048).view(4 * 16, 128))
    batches = list(loader)
    if not cudas:
        return  # the CPU has no streams
    (cuda,) = cudas
    assert [value is batch for (value, _), batch in zip(cuda.lent, batches, strict=True)] == [
        True
    ] * 16
    assert {stream for _, stream in cuda.lent} == {cuda.reader}
    assert cuda.reader.waited_for == cuda.events
    assert {event.stream for event in cuda.events} == {cuda.side}


def test_blocks_that_come_again_are_registered_and_not_staged(cudas: list[RecordingCuda]) -> None:
    loader = load(torch.arange(64 * 2048).view(1024, 128), persistent_workers=True)
    for _ in range(2):
        for number, batch in enumerate(loader):
            assert batch[0, 0] == number * 4 * 128
    loader._iterator = None
    if not cudas:
        return  # the CPU reads any memory
    (cuda,) = cudas
    assert cuda.num_registrations > 0
    assert cuda.num_staged < 512
    assert not cuda.registered, "left with the driver"
