"""What a dataset defers is scheduled as the samples of a map-style dataset are."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch.utils.data
from torch.utils.data import get_worker_info

from hatchway import DataLoader, Deferred, DeferredDataset
from hatchway.loader import LoaderTimeoutError, SampleError
from tests.real.augmented import as_list
from tests.real.gates import CONTEXT, PATIENCE_S, Gated, numbers
from tests.real.streams import (
    NUM_ITEMS,
    Bulky,
    Eager,
    Epochs,
    GatedStream,
    Mixed,
    Numbers,
    SharedEpoch,
    Shuffled,
    Unmarked,
    failing,
    noisy,
)

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]
StockLoader = torch.utils.data.DataLoader


def make(dataset: Any, batch_size: int | None = 4, **arguments: Any) -> DataLoader[Any]:
    if arguments.get("num_workers"):
        arguments = {"timeout": PATIENCE_S, "multiprocessing_context": CONTEXT} | arguments
    return DataLoader(dataset, batch_size, **arguments)


def listed(batches: Any) -> list[list[int]]:
    return [numbers(batch) for batch in batches]


@pytest.mark.parametrize("num_readers", [1, 2, 3])
@pytest.mark.parametrize(
    "arguments",
    [{"batch_size": 4}, {"batch_size": 4, "drop_last": True}, {"batch_size": None}],
    ids=str,
)
def test_in_strict_order_the_batches_are_those_of_the_dataset_that_defers_nothing(
    num_readers: int, arguments: dict[str, Any]
) -> None:
    dataset = Numbers(num_readers=num_readers)
    theirs = listed(StockLoader(Eager(dataset), num_workers=num_readers, **arguments))
    for num_workers in (0, 1, 3):
        assert listed(make(dataset, num_workers=num_workers, **arguments)) == theirs


def test_one_reader_reads_everything_whether_the_dataset_shards_or_not() -> None:
    for dataset in (Numbers(), Shuffled()):
        loader = make(dataset, collate_fn=as_list, num_workers=2)
        assert sum(len(batch) for batch in loader) == NUM_ITEMS


@pytest.mark.parametrize("num_readers", [1, 2])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_in_ready_order_each_sample_comes_once(num_workers: int, num_readers: int) -> None:
    dataset = Numbers(num_readers=num_readers)
    found = listed(make(dataset, num_workers=num_workers, order="ready"))
    assert sorted(number for batch in found for number in batch) == list(range(NUM_ITEMS))
    assert [len(batch) for batch in found] == [4, 4, 4, 4, 4, 3]
    dropped = make(dataset, num_workers=num_workers, order="ready", drop_last=True)
    # As in torch each reader drops what is left at its own end.
    in_all = sum(len(range(n, NUM_ITEMS, num_readers)) // 4 for n in range(num_readers))
    assert [len(batch) for batch in dropped] == [4] * in_all


def test_samples_that_come_finished_pass_through_among_the_others() -> None:
    for num_workers in (0, 2):
        loader = make(Mixed(), num_workers=num_workers)
        assert listed(loader) == listed(StockLoader(Numbers(), 4, collate_fn=finish_all))


def finish_all(items: list[Any]) -> torch.Tensor:
    return torch.stack([item() for item in items])


def test_a_slow_deferred_part_stalls_nobody() -> None:
    stream = GatedStream(Gated(40, held={0, 1}))
    loader = make(stream, num_workers=2, order="ready", slow_after_s=0.02)
    iterator = iter(loader)
    # Nine full batches are all that the 38 other samples make.
    first = listed(next(iterator) for _ in range(9))
    assert not {0, 1} & {number for batch in first for number in batch}
    stream.gated.gate.set()
    last = listed(iterator)
    assert sorted(number for batch in first + last for number in batch) == list(range(40))
    assert list(stream.gated.num_runs) == [1] * 40
    assert loader.statistics().num_displaced > 0


def test_in_strict_order_the_samples_after_a_slow_one_run_meanwhile() -> None:
    # Sample 0 ends only after sample 7 has run, in the batch after it.
    stream = GatedStream(Gated(16, after={0: 7}))
    assert listed(make(stream, num_workers=2)) == [[*range(n, n + 4)] for n in range(0, 16, 4)]


def test_batches_leave_while_the_reader_waits_for_its_next_item() -> None:
    stream = GatedStream(Gated(16), stops_at=10)
    iterator = iter(make(stream, num_workers=2))
    assert listed(next(iterator) for _ in range(2)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    stream.gate.set()
    assert listed(iterator) == [[8, 9, 10, 11], [12, 13, 14, 15]]


def test_a_timeout_says_that_it_is_the_reader_that_is_waited_for() -> None:
    stream = GatedStream(Gated(16), stops_at=10)
    iterator = iter(make(stream, num_workers=1, timeout=1))
    assert listed(next(iterator) for _ in range(2)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(LoaderTimeoutError, match=r"8 samples were read.*waits for reader 0"):
        next(iterator)
    stream.gate.set()
    assert len(list(iterator)) == 2


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_seeds_are_those_of_the_position_whatever_the_workers(order: str) -> None:
    found = []
    for num_workers in (0, 1, 3):
        torch.manual_seed(7)
        # The reader shuffles, too: its generators are torch's worker's, or stand for them.
        loader = make(Shuffled(), collate_fn=as_list, num_workers=num_workers, order=order)
        found.append(sorted(sample for batch in loader for sample in batch))
    assert found[0] == found[1] == found[2]
    assert len({str(drawn) for _, drawn in found[0]}) == NUM_ITEMS


def test_the_first_pass_reads_in_the_order_that_torchs_worker_draws() -> None:
    torch.manual_seed(7)
    theirs = [number for (number, _), in StockLoader(Eager(Shuffled()), 1, num_workers=1,
                                                      collate_fn=as_list)]  # fmt: skip
    torch.manual_seed(7)
    ours = [number for ((number, _),) in make(Shuffled(), 1, num_workers=2, collate_fn=as_list)]
    assert ours == theirs


def test_without_workers_the_calling_processes_generators_stay_as_they_were() -> None:
    torch.manual_seed(7)
    iterator = iter(make(Shuffled(), collate_fn=as_list))
    before = torch.get_rng_state()
    list(iterator)
    assert torch.equal(before, torch.get_rng_state())
    assert get_worker_info() is None


class Told(DeferredDataset[Any]):
    """Tells what ``get_worker_info`` is in the reader, and in the deferred part."""

    num_readers = 2
    mark = ""

    def __iter__(self) -> Any:
        info = get_worker_info()
        assert info is not None
        assert info.dataset is self
        yield Deferred(told, (info.id, info.num_workers), self.mark)


def told(reader: Any, mark: str) -> Any:
    info = get_worker_info()
    if info is None:
        return reader, mark, None
    return reader, mark, (type(info.dataset).__name__, info.id < 3, info.num_workers)


def marked(_: int) -> None:
    info = get_worker_info()
    assert info is not None
    info.dataset.mark = "initialised"


def test_reader_and_worker_have_a_worker_info_each_and_worker_init_fn_runs_in_both() -> None:
    arguments: dict[str, Any] = {"collate_fn": as_list}
    loader = make(Told(), None, num_workers=3, worker_init_fn=marked, **arguments)
    assert list(loader) == [((n, 2), "initialised", ("Told", True, 3)) for n in range(2)]
    assert list(make(Told(), None, **arguments)) == [((n, 2), "", None) for n in range(2)]


@pytest.mark.parametrize("persistent", [False, True])
def test_each_pass_reads_anew(persistent: bool) -> None:
    dataset = Epochs()
    loader = make(dataset, 1, num_workers=1, persistent_workers=persistent)
    passes = [[batch.item() for batch in loader] for _ in range(2)]
    # As torch's persistent workers, its reader keeps its copy of the dataset ...
    assert passes == [[0, 1], [0, 2 if persistent else 1]]
    dataset.set_epoch(5)  # ... but sees an epoch that was set
    assert [batch.item() for batch in loader] == [5, 1]
    loader._iterator = None


def test_an_epoch_in_shared_memory_is_seen_by_the_reader_that_there_is() -> None:
    dataset = SharedEpoch()
    loader = make(dataset, 1, num_workers=1, persistent_workers=True)
    for epoch in (0, 4, 5):
        dataset.epoch.value = epoch
        assert [batch.item() for batch in loader] == [epoch]
    loader._iterator = None


def test_a_pass_that_is_left_half_way_is_given_up_and_its_memory_is_free() -> None:
    loader = make(Numbers(200), num_workers=2, persistent_workers=True, order="ready")
    for left_after in (1, 5, 20):
        iterator = iter(loader)
        for _ in range(left_after):
            next(iterator)
    assert sorted(n for batch in listed(loader) for n in batch) == list(range(200))
    assert iterator.statistics().buffer_used_bytes == 0
    loader._iterator = None


def test_random_orders_differ_between_passes_of_persistent_workers() -> None:
    loader = make(Shuffled(), 1, num_workers=1, persistent_workers=True, collate_fn=as_list)
    orders = [[number for ((number, _),) in loader] for _ in range(2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    loader._iterator = None


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_failure_in_a_deferred_part_says_what_was_deferred(num_workers: int) -> None:
    iterator = iter(make(Numbers(12, failing), num_workers=num_workers))
    assert numbers(next(iterator)) == [0, 1, 2, 3]
    with pytest.raises(KeyError, match="sample 5") as caught:
        next(iterator)
    if num_workers:
        cause = caught.value.__cause__
        assert isinstance(cause, SampleError)
        assert (cause.index, cause.position) == ("Deferred(failing, 5)", 5)
        del cause
    del caught
    assert numbers(next(iterator)) == [8, 9, 10, 11]


def test_in_ready_order_a_failure_leaves_alone() -> None:
    iterator = iter(make(Numbers(12, failing), num_workers=2, order="ready"))
    found: list[int] = []
    failures: list[str] = []
    for _ in range(4):
        try:
            found += numbers(next(iterator))
        except KeyError as error:
            failures += error.args
    assert failures == ["sample 5"]
    assert sorted(found) == [number for number in range(12) if number != 5]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("batch_size", [4, None])
def test_what_an_unmarked_dataset_defers_is_finished_by_who_reads_it(
    num_workers: int, batch_size: int | None
) -> None:
    loader = make(Unmarked(), batch_size, num_workers=num_workers)
    assert [n for batch in listed(loader) for n in batch] == list(range(NUM_ITEMS))


def test_arguments_are_the_workers_own() -> None:
    loader = make(Bulky(8, 80), num_workers=2)
    assert listed(loader) == [[10, 20, 30, 40], [50, 60, 70, 80]]


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_what_is_read_ahead_is_bounded_in_bytes(order: str) -> None:
    # An eighth of 16 MiB and two batches may wait for workers, and a sixteenth of it or
    # one batch in the reader, which has one more in its hands.
    dataset = Bulky(40, 1 << 20)
    loader = make(dataset, num_workers=2, buffer_bytes=16 << 20, order=order, prefetch_factor=8)
    iterator = iter(loader)
    next(iterator)
    most = dataset.num_read.value
    assert most <= 4 + 4 * 4 + 4
    assert sum(len(batch) for batch in iterator) == 36


def test_in_few_bytes_as_much_is_read_ahead_as_torch_would() -> None:
    dataset = Bulky(4000, 8)
    loader = make(dataset, num_workers=2, prefetch_factor=3)
    iterator = iter(loader)
    next(iterator)
    assert dataset.num_read.value <= 4 * (1 + 6 + 3 + 1)
    del iterator


def test_a_length_is_torchs_and_more_than_that_warns_as_in_torch() -> None:
    class Short(Numbers):
        def __len__(self) -> int:
            return 20

    for num_workers in (0, 1):
        loader = make(Short(), 1, num_workers=num_workers)
        assert len(loader) == 20
        with pytest.warns(UserWarning, match="Length of IterableDataset"):
            list(loader)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(make(Short(20), 1, num_workers=1))) == 20
    with pytest.raises(TypeError, match="has no len"):
        len(make(Numbers()))


def test_an_order_for_it_is_refused_as_in_torch_and_readers_are_counted() -> None:
    with pytest.raises(ValueError, match="shuffle"):
        make(Numbers(), shuffle=True)
    for num_workers in (0, 1):
        with pytest.raises(ValueError, match="num_readers of Numbers must be an int of at least 1"):
            list(make(Numbers(num_readers=0), num_workers=num_workers))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_start_methods_read_the_same(method: str) -> None:
    torch.manual_seed(7)
    arguments: dict[str, Any] = {"collate_fn": as_list}
    loader = make(Numbers(9, noisy), num_workers=1, multiprocessing_context=method, **arguments)
    torch.manual_seed(7)
    ours = list(loader)
    torch.manual_seed(7)
    assert ours == list(make(Numbers(9, noisy), **arguments))


def test_without_native_code_it_holds_all_the_same() -> None:
    names = (
        "test_a_slow_deferred_part_stalls_nobody",
        "test_seeds_are_those_of_the_position_whatever_the_workers",
        "test_in_ready_order_each_sample_comes_once",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        + [f"tests/real/test_deferred.py::{name}" for name in names],
        env=os.environ | {"HATCHWAY_PURE_PYTHON": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
