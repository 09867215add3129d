"""A copy to the device that fails, or is interrupted, loses nothing but its own batch."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from hatchway import DataLoader
from hatchway.loader import ondevice
from tests.real.arriving import KINDS, give_device, is_next_ready, load
from tests.real.gates import CONTEXT, Gated, numbers
from tests.real.shapes import SHAPES, Samples, as_list

pytestmark = pytest.mark.fault


@pytest.fixture(params=KINDS, autouse=True)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    give_device(request.param, monkeypatch)


def outcomes(loader: DataLoader[Any]) -> list[Any]:
    found: list[Any] = []
    iterator = iter(loader)
    while True:
        try:
            found.append(next(iterator).flatten().tolist())
        except StopIteration:
            return found
        except KeyError as error:
            found.append(str(error))


def test_a_failed_sample_raises_in_its_turn_and_later_batches_come() -> None:
    dataset = Samples(SHAPES["failing"].make)
    found = outcomes(load(dataset, order="strict"))
    assert found == outcomes(load(dataset, order="strict", device=None))
    assert [type(one) for one in found] == [str, list] * 3
    found = outcomes(load(dataset, order="ready"))
    came = [number for one in found if isinstance(one, list) for number in one]
    assert sorted(came) == [number for number in range(23) if number % 7 != 3]
    assert len([one for one in found if isinstance(one, str)]) == 3


class CannotMove:
    """Refuses where its number says so."""

    kind: type[Exception] = MemoryError

    def __init__(self, number: int) -> None:
        self.number = number

    def to(self, device: torch.device, non_blocking: bool = False) -> CannotMove:
        if self.number == 1:
            raise self.kind("no room on the device")
        return self

    def record_stream(self, stream: Any) -> None:
        raise AssertionError("only through the device")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_that_cannot_be_copied_raises_in_its_turn_and_later_ones_come(
    num_workers: int,
) -> None:
    loader = load(Samples(CannotMove, 4), 1, num_workers=num_workers, collate_fn=as_list)
    iterator = iter(loader)
    if num_workers:
        assert is_next_ready(iterator)
    assert next(iterator)[0].number == 0
    with pytest.raises(MemoryError, match="no room on the device"):
        next(iterator)
    assert [batch[0].number for batch in iterator] == [2, 3]


class Ends(CannotMove):
    kind = StopIteration


def test_a_copy_does_not_end_the_loop_in_silence() -> None:
    iterator = iter(load(Samples(Ends, 4), 1, collate_fn=as_list))
    next(iterator)
    with pytest.raises(RuntimeError, match=r"the copy of a batch raised StopIteration"):
        next(iterator)
    assert len(list(iterator)) == 2


def test_an_iterator_that_such_an_error_passed_through_is_gone_when_it_is_dropped() -> None:
    loader = load(Samples(CannotMove, 4), 1, collate_fn=as_list)
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(MemoryError):
        next(iterator)
    pool = iterator._pool
    gc.disable()
    try:
        del iterator
        assert pool.size == 0
    finally:
        gc.enable()


def test_an_interrupt_while_the_next_is_copied_ahead_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loader = load(torch.arange(24))
    iterator = iter(loader)
    came = next(iterator).tolist()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ondevice.DeviceInbox, "_look_ahead", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(iterator)
    loader.load_state_dict(loader.state_dict())
    assert came + torch.cat(list(loader)).tolist() == list(range(24))


def test_a_loop_that_waits_too_long_says_so() -> None:
    dataset = Gated(8, held=[4])
    loader = load(dataset, order="strict", timeout=0.5, multiprocessing_context=CONTEXT)
    iterator = iter(loader)
    assert numbers(next(iterator)) == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="timed out"):
        next(iterator)
    dataset.gate.set()
    assert numbers(next(iterator)) == [4, 5, 6, 7]
