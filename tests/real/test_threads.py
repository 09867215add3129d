"""``worker_type="thread"``: the same loader, whose workers are threads."""

from __future__ import annotations

import gc
import os
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

import hatchway
from hatchway import DataLoader
from hatchway.loader import LoaderTimeoutError, SampleError, adaptation, pool
from hatchway.loader.store import Store
from tests.real.drawn import Drawn

pytestmark = pytest.mark.real
ORDERS = ["strict", "ready"]


def with_batch_seed(samples: list[Any]) -> Any:
    return {**default_collate(samples), "seed": torch.tensor(hatchway.sample_seed() >> 1)}


def passes(num_passes: int = 1, **arguments: Any) -> list[Any]:
    torch.manual_seed(3)
    if arguments.get("num_workers", 2):
        arguments.setdefault("timeout", 30)
    loader: Any = DataLoader(Drawn(), 8, **{"num_workers": 2, **arguments})
    return [batch for _ in range(num_passes) for batch in loader]


def assert_same(batches: list[Any], others: list[Any]) -> None:
    assert len(batches) == len(others)
    for one, other in zip(batches, others, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def worker_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("hatchway-")]


@pytest.mark.parametrize("collate", [None, with_batch_seed])
@pytest.mark.parametrize("persistent", [False, True])
def test_batches_are_those_of_processes_and_of_no_workers(collate: Any, persistent: bool) -> None:
    settings: Any = {"shuffle": True, "order": "strict", "collate_fn": collate}
    threads = passes(2, worker_type="thread", persistent_workers=persistent, **settings)
    assert_same(threads, passes(2, persistent_workers=persistent, **settings))
    if not persistent:  # whose base seed is drawn once
        assert_same(threads, passes(2, num_workers=0, **settings))


@pytest.mark.parametrize("order", ORDERS)
def test_every_sample_comes_once_with_its_own_content(order: str) -> None:
    def by_index(batches: list[Any]) -> dict[int, list[float]]:
        return {
            int(index): noise.tolist()
            for batch in batches
            for index, noise in zip(batch["index"], batch["noise"], strict=True)
        }

    found = passes(shuffle=True, order=order, worker_type="thread")
    assert sum(len(batch["index"]) for batch in found) == 60
    assert by_index(found) == by_index(passes(shuffle=True, order="strict"))


def test_there_is_no_seed_where_no_sample_is_made() -> None:
    with pytest.raises(RuntimeError, match="no sample is being made in this thread"):
        hatchway.sample_seed()
    passes(num_workers=0)
    with pytest.raises(RuntimeError, match="no sample is being made in this thread"):
        hatchway.sample_seed()


def test_in_a_process_it_is_what_torch_says() -> None:
    class Both(Drawn):
        def __getitem__(self, index: int) -> Any:
            return hatchway.sample_seed() - torch.initial_seed()

    for num_workers in (0, 2):
        assert torch.cat(list(DataLoader(Both(), 8, num_workers=num_workers))).tolist() == [0] * 60


def test_the_training_processes_generators_and_threads_are_left_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_num_threads()
    expected = np.random.RandomState(1).random()
    loader: Any = DataLoader(Drawn(), 8, num_workers=2, worker_type="thread")
    iterator = iter(loader)
    state = torch.get_rng_state()  # the pass has drawn its base seed
    list(iterator)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.random() == expected
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert (torch.get_num_threads(), seen) == (before, [before])


@pytest.mark.parametrize("order", ORDERS)
def test_a_failure_has_its_type_place_and_story(order: str) -> None:
    class Fails(Drawn):
        def __getitem__(self, index: int) -> Any:
            if index == 13:
                raise KeyError("thirteen")
            return index

    iterator = iter(DataLoader(Fails(), 8, num_workers=2, worker_type="thread", order=order))
    came: list[int] = []
    errors: list[KeyError] = []
    while True:
        try:
            came += next(iterator).tolist()
        except StopIteration:
            break
        except KeyError as error:
            errors.append(error)
    (error,) = errors
    assert error.args == ("thirteen",)
    assert isinstance(error.__cause__, SampleError)
    assert (error.__cause__.position, error.__cause__.index) == (13, 13)
    assert "thirteen" in error.__cause__.worker_traceback
    lost = {13} if order == "ready" else set(range(8, 16))
    assert sorted(came) == sorted(set(range(60)) - lost)
    del error, errors


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration()], ids=repr)
def test_what_would_end_a_loop_or_a_script_is_a_runtime_error(error: BaseException) -> None:
    class Fails(Drawn):
        def __getitem__(self, index: int) -> Any:
            raise type(error)

    with pytest.raises(RuntimeError, match=type(error).__name__):
        list(DataLoader(Fails(), 8, num_workers=1, worker_type="thread"))


def test_a_slow_sample_stalls_nobody() -> None:
    go_on = threading.Event()

    class Waits(Drawn):
        def __getitem__(self, index: int) -> int:
            if index == 3:
                go_on.wait(30)
            return index

    loader: Any = DataLoader(
        Waits(), 4, num_workers=2, worker_type="thread", order="ready", timeout=30
    )
    iterator = iter(loader)
    came = [int(i) for _ in range(14) for i in next(iterator)]
    assert 3 not in came
    go_on.set()
    came += [int(i) for batch in iterator for i in batch]
    assert sorted(came) == list(range(60))


def test_each_thread_is_initialised_with_its_id() -> None:
    ids: list[int] = []
    loader: Any = DataLoader(
        Drawn(), 8, num_workers=3 - 1, worker_type="thread", worker_init_fn=ids.append
    )
    list(loader)
    assert sorted(set(ids)) == [0, 1]


def test_a_state_goes_on_with_processes_and_the_other_way_round() -> None:
    for first, then in (("thread", "process"), ("process", "thread")):
        torch.manual_seed(4)
        whole = list(DataLoader(Drawn(), 8, shuffle=True, num_workers=2, order="strict"))
        torch.manual_seed(4)
        loader: Any = DataLoader(
            Drawn(), 8, shuffle=True, num_workers=2, worker_type=first, order="strict"
        )
        iterator = iter(loader)
        came = [next(iterator) for _ in range(3)]
        state = loader.state_dict()
        del iterator
        other: Any = DataLoader(
            Drawn(), 8, shuffle=True, num_workers=1, worker_type=then, order="strict"
        )
        other.load_state_dict(state)
        assert_same(came + list(other), whole)


def test_a_thread_that_fails_by_itself_is_replaced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Bug(BaseException):
        pass

    put, failed = Store.put_sample, []

    def put_or_fail(self: Store, position: int, sample: object) -> int:
        if not failed:
            failed.append(position)
            raise Bug("a bug of ours")
        return put(self, position, sample)

    monkeypatch.setattr(Store, "put_sample", put_or_fail)
    loader: Any = DataLoader(Drawn(), 8, num_workers=1, worker_type="thread", timeout=30)
    assert sorted(int(i) for batch in loader for i in batch["index"]) == list(range(60))
    assert loader.statistics().num_restarts == 1
    assert "a bug of ours" in capsys.readouterr().err


@pytest.mark.parametrize("order", ORDERS)
def test_threads_come_and_go_with_the_load(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation, "PERIOD_S", 0.1)
    made: list[int] = []

    class Counted(Drawn):
        def __getitem__(self, index: int) -> Any:
            made.append(index)
            return super().__getitem__(index)

    loader: Any = DataLoader(
        Counted(800, 0.01), 8, num_workers="auto", max_workers=12, worker_type="thread",
        order=order, timeout=30,
    )  # fmt: skip
    most = 0
    for number, _ in enumerate(loader):
        most = max(most, loader.statistics().num_workers_alive)
        if number > 60:
            time.sleep(0.08)
    assert most >= 4
    assert sorted(made) == list(range(800))
    assert loader.statistics().num_restarts == 0


def test_leaving_the_loop_ends_the_threads() -> None:
    for batch in DataLoader(Drawn(600, 0.002), 4, num_workers=2, worker_type="thread"):
        assert len(batch["index"]) == 4
        assert worker_threads()
        break
    assert not worker_threads()


def test_a_thread_that_cannot_be_stopped_ends_by_itself_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hatchway.loader.thread_pool.GRACE_S", 0.1)
    go_on, begun = threading.Event(), threading.Event()

    class Stuck(Drawn):
        def __getitem__(self, index: int) -> int:
            if index == 5:
                begun.set()
                go_on.wait(30)
            return index

    descriptors = len(os.listdir("/proc/self/fd"))
    iterator = iter(DataLoader(Stuck(), 4, num_workers=2, worker_type="thread", timeout=30))
    next(iterator)
    assert begun.wait(30)
    del iterator
    (left,) = worker_threads()
    go_on.set()
    left.join(30)
    del left
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_the_timeout_says_what_the_threads_are_at() -> None:
    go_on = threading.Event()

    class Stuck(Drawn):
        def __getitem__(self, index: int) -> int:
            go_on.wait(30)
            return index

    iterator = iter(DataLoader(Stuck(), 4, num_workers=1, worker_type="thread", timeout=0.3))
    with pytest.raises(LoaderTimeoutError, match="worker 0 is at dataset index 0"):
        next(iterator)
    go_on.set()


def test_a_process_that_is_forked_meanwhile_ends_nothing() -> None:
    iterator = iter(DataLoader(Drawn(), 4, num_workers=2, worker_type="thread", timeout=30))
    next(iterator)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            del iterator
            gc.collect()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sum(len(batch["index"]) for batch in iterator) == 56


def test_threads_beside_processes_and_other_threads() -> None:
    kinds = ("thread", "process", "thread")
    loaders = [DataLoader(Drawn(), 4, num_workers=1, worker_type=kind) for kind in kinds]
    for batches in zip(*loaders, strict=True):
        assert len({tuple(batch["index"].tolist()) for batch in batches}) == 1


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match="worker_type must be 'process', 'thread' or 'auto', not"):
        DataLoader(Drawn(), worker_type="fiber")
    with pytest.raises(ValueError, match="has no meaning with worker_type='thread'"):
        DataLoader(Drawn(), num_workers=1, worker_type="thread", multiprocessing_context="spawn")


def test_samples_that_collate_keeps_stay_when_their_thread_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adaptation, "PERIOD_S", 0.1)
    monkeypatch.setattr("hatchway.loader.worker_count._PATIENCE_S", 0.3)
    kept: list[tuple[torch.Tensor, int]] = []

    def collate(samples: list[Any]) -> torch.Tensor:
        if len(kept) < 30:
            kept.append((samples[0]["image"], samples[0]["index"]))
        return torch.tensor([sample["index"] for sample in samples])

    class Named(Drawn):
        def __getitem__(self, index: int) -> Any:
            time.sleep(0.005)
            return {"index": index, "image": torch.full((2000,), index), "name": str(index)}

    loader: Any = DataLoader(
        Named(900), 4, num_workers="auto", max_workers=10, worker_type="thread",
        collate_fn=collate, timeout=30,
    )  # fmt: skip
    loader.worker_count.count = 10
    for _ in loader:
        time.sleep(0.02)
        assert all((image == index).all() for image, index in kept)
    assert loader.statistics().num_workers <= 8
    assert len(kept) == 30
    del collate
    kept.clear()


def test_a_loader_within_a_sample_leaves_the_seed_alone() -> None:
    class Nested(Drawn):
        def __getitem__(self, index: int) -> bool:
            before = hatchway.sample_seed()
            list(DataLoader(Drawn(3), 2))
            return before == hatchway.sample_seed()

    for arguments in ({}, {"num_workers": 1}, {"num_workers": 1, "worker_type": "thread"}):
        loader: Any = DataLoader(Nested(6), 3, **arguments)  # type: ignore[arg-type]
        assert torch.cat(list(loader)).all()


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_a_forked_child_iterates_anew_and_leaves_the_pass_here_alone(kind: str) -> None:
    loader: Any = DataLoader(
        Drawn(200), 4, num_workers=2, persistent_workers=True, worker_type=kind, timeout=30
    )
    iterator = iter(loader)
    came = [int(i) for _ in range(5) for i in next(iterator)["index"]]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = int(sum(len(batch["index"]) for batch in loader) != 200)
            loader._iterator = None
        finally:
            os._exit(status)
    came += [int(i) for batch in iterator for i in batch["index"]]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(came) == list(range(200))
    loader._iterator = None


def test_an_interrupt_while_the_lock_is_held_leaves_no_thread() -> None:
    loader: Any = DataLoader(Drawn(), 4, num_workers=2, worker_type="thread", timeout=30)
    iterator = iter(loader)
    next(iterator)
    iterator._visit.__enter__()  # as Ctrl-C leaves it, between that and the with statement
    begun = time.monotonic()
    del iterator
    assert not worker_threads()
    assert time.monotonic() - begun < pool.GRACE_S


def test_another_number_may_be_set_after_an_automatic_one() -> None:
    loader: Any = DataLoader(Drawn(), 4, num_workers="auto", max_workers=4)
    list(loader)
    loader.num_workers = 1
    assert sum(len(batch["index"]) for batch in loader) == 60
    assert loader.statistics().num_workers == 1
