"""An exception in the middle of ``next()`` neither loses nor repeats a sample unseen."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import Dataset

from hatchway import DataLoader
from hatchway.loader import BufferFullError, pool
from hatchway.loader.inbox import Inbox
from hatchway.loader.retirement import Retirement
from hatchway.loader.shared import wait_readable

pytestmark = pytest.mark.fault
NUM_SAMPLES = 24


class Numbers(Dataset[Any]):
    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> int:
        return index


def interrupt(monkeypatch: pytest.MonkeyPatch, *, at_call: int) -> None:
    """Raise, as Ctrl-C does, while the training process takes a batch off the board."""
    here, calls = os.getpid(), 0
    consume = Retirement.consume

    def interrupted(self: Retirement, positions: Any) -> None:
        nonlocal calls
        calls += os.getpid() == here
        if calls == at_call and os.getpid() == here:
            calls += 1
            raise KeyboardInterrupt
        consume(self, positions)

    monkeypatch.setattr(Retirement, "consume", interrupted)


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_a_caught_interrupt_ends_the_pass_and_says_so(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = DataLoader(Numbers(), 4, num_workers=2, order=order, timeout=30)
    iterator = iter(loader)
    interrupt(monkeypatch, at_call=3)
    came = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        while True:
            came.append(next(iterator).tolist())
    assert len(came) == 2
    assert iterator._pool.size == 0
    for _ in range(2):
        with pytest.raises(RuntimeError, match="KeyboardInterrupt interrupted this pass"):
            next(iterator)
    assert len(list(loader)) == 6


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize("place", [(Retirement, "consume"), (Inbox, "open")])
def test_a_batch_that_did_not_arrive_is_not_delivered_by_the_state(
    place: tuple[type, str], order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = DataLoader(Numbers(), 4, num_workers=2, order=order, timeout=30)
    iterator = iter(loader)
    came = torch.cat([next(iterator), next(iterator)]).tolist()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(*place, interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(iterator)
    state = loader.state_dict()
    loader.load_state_dict(state)
    assert sorted(came + torch.cat(list(loader)).tolist()) == list(range(NUM_SAMPLES))


def test_persistent_workers_are_started_anew_after_an_interrupt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loader = DataLoader(Numbers(), 4, num_workers=2, persistent_workers=True, timeout=30)
    assert len(list(loader)) == 6
    interrupt(monkeypatch, at_call=2)
    with pytest.raises(KeyboardInterrupt):
        list(loader)
    assert next(iter(loader)).tolist() == [0, 1, 2, 3]
    loader._iterator = None


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_a_signal_while_the_loop_waits_loses_nothing(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Numbers):
        def __getitem__(self, index: int) -> int:
            time.sleep(0.05)
            return index

    class AlarmError(Exception):
        pass

    def ring(_signum: int, _frame: FrameType | None) -> None:
        raise AlarmError

    def wait_and_ring(descriptors: list[int], timeout_s: float | None) -> list[int]:
        # The timer runs while the loop sleeps and no longer: where a batch is handed
        # over, an exception ends the pass, and other tests are about that.
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            return wait_readable(descriptors, timeout_s)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    previous = signal.signal(signal.SIGALRM, ring)
    came, num_alarms = [], 0
    iterator = iter(DataLoader(Slow(), 4, num_workers=1, order=order, timeout=30))
    monkeypatch.setattr("hatchway.loader.iterator.wait_readable", wait_and_ring)
    try:
        while True:
            try:
                came += next(iterator).tolist()
            except StopIteration:
                break
            except AlarmError:
                num_alarms += 1
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert num_alarms
    assert sorted(came) == list(range(NUM_SAMPLES))


def test_workers_do_not_run_the_scripts_handler_of_sigterm() -> None:
    class Stuck(Numbers):
        def __getitem__(self, index: int) -> int:
            time.sleep(60 if index == 4 else 0)
            return index

    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        iterator = iter(DataLoader(Stuck(), 4, num_workers=1, order="strict", timeout=30))
        next(iterator)
        (worker_id,) = iterator._pool.ids
        worker = psutil.Process(iterator._pool._workers[worker_id].pid)
        begun = time.monotonic()
        del iterator
        assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
        # Asked to stop, then terminated; a handler that does nothing costs another wait.
        assert time.monotonic() - begun < 2 * pool.GRACE_S
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_a_background_worker_that_cannot_start_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(Numbers):
        def __getitem__(self, index: int) -> int:
            time.sleep(0.6 if index < 2 else 0.001)
            return index

    start, refused = pool.ProcessPool.start, []

    def refuse(self: pool.ProcessPool, worker_id: int) -> None:
        if worker_id >= 2:
            refused.append(worker_id)
            raise BlockingIOError(11, "Resource temporarily unavailable")
        start(self, worker_id)

    monkeypatch.setattr(pool.ProcessPool, "start", refuse)
    loader = DataLoader(Slow(), 4, num_workers=2, order="ready", slow_after_s=0.02, timeout=30)
    came = [index for batch in loader for index in batch.tolist()]
    assert sorted(came) == list(range(NUM_SAMPLES))
    assert refused == [2]
    assert loader.statistics().num_background_workers == 0


def test_samples_that_collate_keeps_survive_an_error_of_their_worker() -> None:
    kept: list[tuple[int, torch.Tensor]] = []

    class OneTooLarge(Numbers):
        def __getitem__(self, index: int) -> torch.Tensor:
            time.sleep(0.003)  # too slow to be collated within its chunk
            size = 8 << 20 if index == 10 else 20_000
            return torch.full((size,), index, dtype=torch.uint8)

    def keep(samples: list[torch.Tensor]) -> list[int]:
        kept.extend((int(sample[0]), sample) for sample in samples)
        return [number for number, sample in kept if not bool((sample == number).all())]

    loader = DataLoader(
        OneTooLarge(),
        2,
        num_workers=1,
        collate_fn=keep,
        order="strict",
        buffer_bytes=4 << 20,
        timeout=30,
    )
    iterator = iter(loader)
    num_batches, errors = 0, []
    while True:
        try:
            assert next(iterator) == [], "kept samples were overwritten"
            num_batches += 1
        except StopIteration:
            break
        except BufferFullError as error:
            errors.append(error)
    assert len(errors) == 1
    assert num_batches == NUM_SAMPLES // 2 - 1
