"""Copies beside the computation: what waits for what, and what is kept until when."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from hatchway.loader.transfer import Copy, PlainTransfer, StreamTransfer, bring
from tests.recorder import FakeStream, RecordingCuda

NUM_UNDER_WAY = 4


class Source:
    """Keeps memory."""


class Graph:
    """A class of the user's that moves itself, and cannot be lent."""

    def __init__(self, cuda: RecordingCuda) -> None:
        self.cuda = cuda
        self.moved_on: FakeStream | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Graph:
        moved = Graph(self.cuda)
        moved.moved_on = self.cuda.active
        return moved


class Lendable(Graph):
    """Another that can be lent."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Lendable:
        moved = Lendable(self.cuda)
        moved.moved_on = self.cuda.active
        return moved

    def record_stream(self, stream: Any) -> None:
        raise AssertionError("only through the device")


@pytest.fixture
def cuda() -> RecordingCuda:
    return RecordingCuda()


def test_the_callers_stream_waits_for_the_copy_before_it_gets_the_batch(
    cuda: RecordingCuda,
) -> None:
    transfer = StreamTransfer(cuda)
    copy = transfer.start({"x": torch.ones(3), "name": "a"}, Source(), is_pinned=True)
    assert copy.done.stream is cuda.side
    assert cuda.reader.waited_for == []
    batch = transfer.hand_over(copy)
    assert cuda.reader.waited_for == [copy.done]
    assert [(value is batch["x"], stream) for value, stream in cuda.lent] == [(True, cuda.reader)]


def test_it_is_the_stream_that_the_caller_uses_when_the_batch_is_handed_over(
    cuda: RecordingCuda,
) -> None:
    transfer, other = StreamTransfer(cuda), FakeStream("another")
    copy = transfer.start([torch.ones(3)], Source(), is_pinned=True)
    cuda.active = other
    transfer.hand_over(copy)
    assert other.waited_for == [copy.done]
    assert [stream for _, stream in cuda.lent] == [other]
    assert cuda.reader.waited_for == []


def test_a_source_is_kept_until_its_copy_is_over(cuda: RecordingCuda) -> None:
    transfer, source = StreamTransfer(cuda), Source()
    kept = weakref.ref(source)
    copy = transfer.start(torch.ones(3), source, is_pinned=True)
    transfer.hand_over(copy)
    del copy, source
    transfer.let_go()
    gc.collect()
    assert kept() is not None
    cuda.finish()
    transfer.let_go()
    assert kept() is None


def test_a_source_is_kept_also_where_its_copy_failed_half_way(cuda: RecordingCuda) -> None:
    class Refuses(Lendable):
        def to(self, device: torch.device, non_blocking: bool = False) -> Lendable:
            raise RuntimeError("out of memory")

    transfer, source = StreamTransfer(cuda), Source()
    kept = weakref.ref(source)
    with pytest.raises(RuntimeError, match="out of memory"):
        transfer.start([torch.ones(3), Refuses(cuda)], source, is_pinned=True)
    del source
    transfer.let_go()
    assert kept() is not None
    transfer.wait()
    assert kept() is None


def test_a_loop_that_runs_far_ahead_of_its_device_waits_for_the_oldest_copy(
    cuda: RecordingCuda,
) -> None:
    transfer = StreamTransfer(cuda)
    for number in range(NUM_UNDER_WAY + 2):
        transfer.start(torch.ones(3), Source(), is_pinned=True)
        is_done = [event.is_done for event in cuda.events]
        assert is_done == [True] * max(0, number + 1 - NUM_UNDER_WAY) + [False] * min(
            number + 1, NUM_UNDER_WAY
        )


def test_pageable_memory_is_staged_and_registered_memory_is_not(cuda: RecordingCuda) -> None:
    transfer = StreamTransfer(cuda)
    transfer.start(torch.ones(3), Source(), is_pinned=True)
    assert cuda.num_staged == 0
    transfer.start(torch.ones(3), Source(), is_pinned=False)
    assert cuda.num_staged == 1


def test_what_can_be_lent_is_copied_ahead_and_the_rest_in_its_turn(cuda: RecordingCuda) -> None:
    transfer, source = StreamTransfer(cuda), Source()
    kept = weakref.ref(source)
    batch = [Lendable(cuda), Graph(cuda), torch.ones(2), torch.eye(2).to_sparse()]
    copy = transfer.start(batch, source, is_pinned=True)
    assert copy.batch[1] is batch[1]
    assert copy.batch[3] is batch[3]
    assert copy.batch[2] is not batch[2]
    came = transfer.hand_over(copy)
    assert (came[0].moved_on, came[1].moved_on) == (cuda.side, cuda.reader)
    assert came[3] is not batch[3]
    assert [value for value, _ in cuda.lent] == [came[0], came[2]]
    # The caller's stream reads the source, too.
    assert [event.stream for event in cuda.events] == [cuda.side, cuda.reader]
    cuda.events[0].is_done = True
    del copy, source
    transfer.let_go()
    assert kept() is not None
    cuda.finish()
    transfer.let_go()
    assert kept() is None


def test_what_is_brought_in_its_turn_keeps_itself(cuda: RecordingCuda) -> None:
    transfer = StreamTransfer(cuda)
    batch = bring(transfer, (torch.arange(3), "a"))
    assert batch[0].tolist() == [0, 1, 2]
    assert batch[1] == "a"
    assert cuda.reader.waited_for == cuda.events
    assert cuda.num_staged == 1


class Older:
    """Its ``to`` does not know ``non_blocking``."""

    device: Any = None

    def to(self, device: Any) -> Older:
        self.device = device
        return self


class Silent:
    """Moves itself, and says nothing."""

    device: Any = None

    def to(self, device: Any, **_: Any) -> None:
        self.device = device


@pytest.mark.parametrize("kind", [Older, Silent])
@pytest.mark.parametrize("streams", [False, True])
def test_objects_that_move_themselves_arrive(kind: Any, streams: bool, cuda: RecordingCuda) -> None:
    device = torch.device("cpu")
    transfer = StreamTransfer(cuda) if streams else PlainTransfer(device)
    (came,) = bring(transfer, [kind()])
    assert type(came) is kind
    assert came.device == device


def test_a_copy_on_the_cpu_is_private_and_a_leaf_stays_one() -> None:
    transfer = PlainTransfer(torch.device("cpu"))
    leaf = torch.ones(2, requires_grad=True)
    plain = torch.arange(4.0)
    copy = transfer.start([leaf, plain, plain.t()], None, is_pinned=False)
    assert isinstance(copy, Copy)
    came = transfer.hand_over(copy)
    assert came[0].requires_grad
    assert came[0].is_leaf
    plain += 1
    assert came[1].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert not came[1].requires_grad
