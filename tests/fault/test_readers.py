"""Readers that fail, are killed, or are left: an error in its turn, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from hatchway import DataLoader, Deferred, DeferredDataset
from hatchway.loader import BufferFullError, SampleError, WorkerDiedError, stream
from tests.fault.reaper import CONTEXT, Reaper
from tests.fault.scripts import running
from tests.real.gates import PATIENCE_S, numbers
from tests.real.streams import Breaking, Bulky, Numbers, tensor_of

pytestmark = pytest.mark.fault


def make(dataset: Any, **arguments: Any) -> DataLoader[Any]:
    if arguments.setdefault("num_workers", 2):
        arguments = {"timeout": PATIENCE_S, "multiprocessing_context": CONTEXT} | arguments
    return DataLoader(dataset, 4, **arguments)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize("at", [0, 8, 10])
def test_what_reading_raises_comes_after_the_batches_before_it(
    at: int, order: str, num_workers: int
) -> None:
    iterator = iter(make(Breaking(at), order=order, num_workers=num_workers))
    came = [number for _ in range(at // 4) for number in numbers(next(iterator))]
    assert sorted(came) == list(range(at // 4 * 4))
    with pytest.raises(LookupError, match="no more shards") as caught:
        next(iterator)
    if num_workers:
        assert f"reading the dataset in reader 0, after {at // 4 * 4} samples" in str(
            caught.value.__cause__
        )
    del caught
    with pytest.raises(StopIteration):
        next(iterator)


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize("at", [0, 10])
def test_a_reader_that_is_killed_is_an_error_after_the_batches_before_it(
    at: int, order: str
) -> None:
    iterator = iter(make(Breaking(at, kills=True), order=order))
    came = [number for _ in range(at // 4) for number in numbers(next(iterator))]
    assert sorted(came) == list(range(at // 4 * 4))
    with pytest.raises(WorkerDiedError, match=r"reader 0.*SIGKILL after \d+ samples") as caught:
        next(iterator)
    assert (caught.value.exit_code, caught.value.worker_id) == (-signal.SIGKILL, 0)
    del caught
    with pytest.raises(StopIteration):
        next(iterator)


@pytest.mark.timeout(120)
def test_wherever_a_reader_is_killed_the_batches_before_it_come_and_then_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reaper = Reaper(monkeypatch, stream)
    whole = [[*range(n, n + 4)] for n in range(0, 40, 4)]
    seed = random.randrange(2**32)
    print(f"seed {seed}")

    def run(line: int) -> int:
        reaper.arm(line)
        found: list[list[int]] = []
        loader = make(Numbers(40), prefetch_factor=1)
        with contextlib.suppress(WorkerDiedError):
            for batch in loader:
                found.append(numbers(batch))
        assert found == whole[: len(found)], f"reader 0 was killed before line event {line}"
        is_whole = len(found) == len(whole)
        assert is_whole or 0 <= line < reaper.lines_run + 1
        return reaper.lines_run

    num_lines = run(-1)
    for line in sorted(random.Random(seed).sample(range(num_lines), 60)):
        run(line)


class Stuck(Numbers):
    """The first reader stops for good before item 6."""

    def __init__(self) -> None:
        super().__init__(8)
        self.pid: Any = CONTEXT.RawValue("i", 0)

    def __iter__(self) -> Any:
        is_first = not self.pid.value
        self.pid.value = os.getpid()
        for number, item in enumerate(super().__iter__()):
            if is_first and number == 6:
                signal.pause()
            yield item


def test_a_reader_that_is_killed_while_it_waits_ends_the_wait_and_the_next_pass_gets_another() -> (
    None
):
    dataset = Stuck()
    loader = make(dataset, persistent_workers=True)
    iterator = iter(loader)
    assert numbers(next(iterator)) == [0, 1, 2, 3]
    os.kill(dataset.pid.value, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="reader 0"):
        next(iterator)
    del iterator
    assert [numbers(batch) for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    loader._iterator = None


def test_a_reader_that_does_not_end_is_ended() -> None:
    iterator = iter(make(Stuck()))
    next(iterator)
    del iterator


def deadly(number: int, once: bool) -> torch.Tensor:
    info = torch.utils.data.get_worker_info()
    assert info is not None
    if number == 5 and not (once and info.dataset.has_died.is_set()):
        info.dataset.has_died.set()
        os.kill(os.getpid(), signal.SIGKILL)
    return tensor_of(number)


class Deadly(DeferredDataset[Any]):
    """Sample 5 kills its worker, once or always."""

    def __init__(self, *, once: bool) -> None:
        self.once = once
        self.has_died = CONTEXT.Event()

    def __iter__(self) -> Any:
        for number in range(12):
            yield Deferred(deadly, number, self.once)


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_a_deferred_part_whose_worker_dies_runs_once_more(order: str) -> None:
    loader = make(Deadly(once=True), order=order)
    found = [number for batch in loader for number in numbers(batch)]
    assert sorted(found) == list(range(12))
    assert loader.statistics().num_restarts == 1


def test_a_deferred_part_that_kills_twice_is_named() -> None:
    iterator = iter(make(Deadly(once=False)))
    assert numbers(next(iterator)) == [0, 1, 2, 3]
    with pytest.raises(WorkerDiedError, match=r"Deferred\(deadly, 5, False\)' \(position 5\)"):
        next(iterator)
    assert numbers(next(iterator)) == [8, 9, 10, 11]


class Unpicklable(DeferredDataset[Any]):
    def __iter__(self) -> Any:
        yield Deferred(lambda: 1)


def test_what_cannot_be_sent_to_a_worker_is_an_error_that_says_so() -> None:
    with pytest.raises(Exception, match="pickle") as caught:
        list(make(Unpicklable()))
    assert "storing what was read of the dataset" in str(caught.value.__cause__)
    del caught


def test_a_batch_that_can_never_be_stored_is_refused_with_the_way_out() -> None:
    loader = make(Bulky(8, 1 << 20), buffer_bytes=2 << 20)
    with pytest.raises(BufferFullError, match="raise buffer_bytes= or lower batch_size="):
        list(loader)


def refuse(worker_id: int) -> None:
    raise PermissionError(f"not for {worker_id}")


def test_a_worker_init_fn_that_fails_is_an_error() -> None:
    with pytest.raises(PermissionError, match="not for 0") as caught:
        list(make(Numbers(), worker_init_fn=refuse))
    assert isinstance(caught.value.__cause__, SampleError)
    del caught


@pytest.mark.parametrize("num_batches", [0, 1, 3])
def test_a_pass_that_is_dropped_leaves_nothing(num_batches: int) -> None:
    before = set(psutil.Process().children())
    iterator = iter(make(Bulky(1000, 1 << 16), buffer_bytes=4 << 20))
    for _ in range(num_batches):
        next(iterator)
    del iterator
    assert not set(psutil.Process().children()) - before


STREAM = """
from hatchway import Deferred, DeferredDataset

class Endless(DeferredDataset):
    def __iter__(self):
        number = 0
        while True:
            yield Deferred(str, number)
            number += 1

batches = iter(DataLoader(Endless(), 4, num_workers=2))
"""


def test_readers_end_when_the_training_process_is_killed(tmp_path: Path) -> None:
    with running(STREAM + "next(batches); say('here'); time.sleep(60)", tmp_path) as script:
        assert script.heard() == "here"
        processes = script.workers()
        assert len(processes) == 3
        script.process.kill()
        script.process.wait()
        _, alive = psutil.wait_procs(processes, timeout=10)
        assert not alive


def test_ctrl_c_in_the_terminal_ends_all_of_them(tmp_path: Path) -> None:
    # By then every process has come to where it ignores the signal.
    body = STREAM + "for n, batch in enumerate(batches):\n    if n == 1000: say('here')"
    with running(body, tmp_path) as script:
        assert script.heard() == "here"
        processes = script.workers()
        script.signal_everyone(signal.SIGINT)
        code, _, said = script.end()
        assert code != 0
        assert said.strip().endswith("KeyboardInterrupt")
        assert not psutil.wait_procs(processes, timeout=10)[1]
