"""``DirtyTracker`` in a real process: threads, forks, and all that may go wrong."""

from __future__ import annotations

import ctypes
import errno
import gc
import itertools
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from hatchway.memory import (
    BackendUnavailableError,
    DirtyTracker,
    RegionError,
    TrackerClosedError,
    backends,
    userfault,
)
from hatchway.memory.pagemap import Pagemap
from hatchway.memory.userfault import AsyncWriteProtection
from hatchway.memory.watching import WATCHED
from hatchway.memory.whole import WholeBlocks

pytestmark = pytest.mark.real

PAGE = mmap.PAGESIZE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MAP_FIXED = 0x10


@pytest.fixture(scope="module", autouse=True)
def _can_protect() -> None:
    try:
        AsyncWriteProtection().close()
    except BackendUnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def mapped() -> Iterator[int]:
    """The address of 64 pages that nobody owns."""
    address = LIBC.mmap(None, 64 * PAGE, 3, PRIVATE, -1, 0)
    yield address
    LIBC.munmap(address, 64 * PAGE)


LIBC: Any = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def pages(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pages with nothing else on them."""
    return np.frombuffer(mmap.mmap(-1, number * PAGE, flags=PRIVATE), np.uint8)


def test_tensors_arrays_buffers_and_addresses(mapped: int) -> None:
    tensor = torch.zeros(100, 1000)
    array = np.zeros((500, 300))[::-2, 5:9]
    buffer = bytearray(5 * PAGE)
    with DirtyTracker([tensor, array, buffer, (mapped, 3 * PAGE)]) as tracker:
        tensor[50, 999] = 1
        array[0, 0] = 1
        buffer[PAGE] = 1
        ctypes.memset(mapped + 2 * PAGE, 1, 1)
        wanted = [
            tensor[50, 999:].data_ptr(),
            array.__array_interface__["data"][0],
            np.frombuffer(buffer, np.uint8)[PAGE:].__array_interface__["data"][0],
            mapped + 2 * PAGE,
        ]
        dirty = tracker.collect()
        assert all(any(start <= one < end for start, end in dirty) for one in wanted)
        # Objects of Python's and torch's may lie beside them.
        assert len(wanted) <= dirty.num_pages <= 3 * len(wanted)
        assert dirty.num_bytes == dirty.num_pages * PAGE
        assert [dirty[rank] for rank in range(len(dirty))] == list(dirty) == list(dirty[:])


@pytest.mark.parametrize("whole_above", [None, 0.5])
def test_no_write_of_a_thread_is_missed(whole_above: float | None) -> None:
    num_pages, num_collections = 3000, 150
    array = np.zeros((num_pages, PAGE), np.uint8)
    shadow = array.copy()
    start: int = array.__array_interface__["data"][0]
    goes_on = True

    def write(seed: int) -> None:
        random = np.random.default_rng(seed)
        for stamp in itertools.count():
            # It is done without the interpreter's lock.
            pages = random.integers(num_pages, size=100).tolist()
            for page in pages:
                ctypes.memset(start + page * PAGE + seed, stamp % 256, 1)
            if stamp % 7 == 0:
                ctypes.memset(start + pages[0] * PAGE + 8 * seed, stamp % 256, 8)
            if not goes_on:
                break

    def copy(dirty: Any) -> None:
        for begin, end in (dirty.addresses - start).tolist():
            rows = slice(max(begin, 0) // PAGE, end // PAGE + 1)
            shadow[rows] = array[rows]

    with DirtyTracker(array, whole_above=whole_above) as tracker:
        writers = [threading.Thread(target=write, args=(seed,)) for seed in range(1, 4)]
        for thread in writers:
            thread.start()
        for _ in range(num_collections):
            copy(tracker.collect())
        goes_on = False
        for thread in writers:
            thread.join()
        copy(tracker.collect())
        assert np.array_equal(shadow, array)
        assert tracker.statistics().num_dirty_pages > num_collections


def test_pages_in_many_pieces_are_all_told() -> None:
    array = pages(40_000)
    start = array.__array_interface__["data"][0]
    with DirtyTracker(array, whole_above=None) as tracker:
        array[:: 2 * PAGE] = 1
        dirty = tracker.collect()
        expected = np.arange(start, start + len(array), 2 * PAGE)
        assert np.array_equal(dirty.addresses, np.stack((expected, expected + PAGE), axis=1))
        assert not len(tracker.collect())


def test_what_is_mostly_dirty_is_taken_whole_and_looked_at_again() -> None:
    array = np.zeros(16 << 20, np.uint8)
    with DirtyTracker(array) as tracker:
        for _ in range(4):
            array[: 12 << 20] = 1
            tracker.collect()
        assert tracker.statistics().num_resting_blocks
        assert tracker.statistics().num_whole_pages
        for _ in range(3):
            tracker.collect()
        assert not len(tracker.collect())


def test_two_trackers_of_the_same_memory_are_told_alike() -> None:
    array = pages(50)
    with DirtyTracker(array) as one:
        array[0] = 1
        with DirtyTracker(array[20 * PAGE :]) as other:
            array[30 * PAGE] = 1
            assert one.collect().num_pages == 2
            assert other.collect().num_pages == 1
            assert not len(one.collect())
        array[40 * PAGE] = 1
        assert one.collect().num_pages == 1


def test_it_can_begin_anew_and_leaves_nothing() -> None:
    array = pages(50)
    tracker = DirtyTracker(array)
    for _ in range(3):
        with tracker:
            array[0] += 1
            assert tracker.collect().num_pages == 1
    with open("/proc/self/smaps") as maps:
        assert not any(line.startswith("VmFlags") and " uw" in line for line in maps)
    with pytest.raises(TrackerClosedError, match="not started"):
        tracker.collect()


def test_a_fork_goes_its_own_way() -> None:
    array = pages(50)
    with DirtyTracker(array) as tracker:
        array[PAGE] = 1
        if not (child := os.fork()):
            code = 1
            try:
                tracker.collect()
            except TrackerClosedError as error:
                with DirtyTracker(array) as own:
                    array[3 * PAGE] = 1
                    code = not ("which forked" in str(error) and own.collect().num_pages == 1)
            finally:
                tracker.close()
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        array[2 * PAGE] = 1
        assert tracker.collect().num_pages == 2


def test_a_fork_during_a_collection_does_not_stall_the_child() -> None:
    array = pages(4)
    with DirtyTracker(array) as tracker:
        with tracker._lock:  # as by a thread that collects
            if not (child := os.fork()):
                signal.alarm(20)
                code = 1
                try:
                    tracker.close()
                    tracker.collect()
                except TrackerClosedError:
                    code = 0
                finally:
                    os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        array[0] = 1
        assert tracker.collect().num_pages == 1


def test_thousands_of_regions_may_be_replaced_at_once() -> None:
    num = 1500
    address = LIBC.mmap(None, 2 * num * PAGE, 3, PRIVATE, -1, 0)
    rows = [(address + 2 * rank * PAGE, PAGE) for rank in range(num)]
    try:
        with DirtyTracker(rows) as tracker:
            for start, _ in rows:
                LIBC.mmap(start, PAGE, 3, PRIVATE | MAP_FIXED, -1, 0)
            assert tracker.collect().num_pages == num
            assert not len(tracker.collect())
    finally:
        LIBC.munmap(address, 2 * num * PAGE)


def test_what_another_mapping_replaced_is_dirty(mapped: int) -> None:
    with DirtyTracker((mapped, 64 * PAGE)) as tracker:
        LIBC.mmap(mapped + 5 * PAGE, PAGE, 3, PRIVATE | MAP_FIXED, -1, 0)
        assert tracker.collect().num_pages == 64
        ctypes.memset(mapped + 5 * PAGE, 1, 1)
        assert tracker.collect().num_pages == 1


def test_memory_that_goes_away_is_named_and_nothing_is_lost(mapped: int) -> None:
    with DirtyTracker((mapped, 64 * PAGE)) as tracker:
        ctypes.memset(mapped, 1, 1)
        LIBC.munmap(mapped + 5 * PAGE, PAGE)
        with pytest.raises(RegionError, match=rf"{mapped:#x}.*is not mapped") as caught:
            tracker.collect()
        assert caught.value.start == mapped
        LIBC.mmap(mapped + 5 * PAGE, PAGE, 3, PRIVATE | MAP_FIXED, -1, 0)
        assert tracker.collect()[0].start == mapped
    with pytest.raises(RegionError, match="is not mapped"), DirtyTracker((PAGE, PAGE)):
        pass


def test_a_tensor_or_an_array_that_moved_is_named() -> None:
    tensor, array = torch.zeros(10_000), np.zeros(10_000)
    with DirtyTracker(tensor) as one, DirtyTracker(array) as other:
        tensor.resize_(1_000_000)
        with pytest.raises(RegionError, match=r"tensor of shape .*was it resized"):
            one.collect()
        array.resize(1_000_000, refcheck=False)
        with pytest.raises(RegionError, match=r"array of shape .*was it resized"):
            other.collect()


def test_what_is_tracked_stays_mapped() -> None:
    memory = mmap.mmap(-1, PAGE)
    with DirtyTracker(memory) as tracker:
        with pytest.raises(BufferError):
            memory.close()
        memory[0] = 1
        assert tracker.collect().num_pages == 1
    del tracker
    gc.collect()
    memory.close()


def test_interrupted_it_tells_all_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    array = pages(50)
    with DirtyTracker(array) as tracker, DirtyTracker(array[20 * PAGE :]) as other:
        array[0] = 1

        scan = Pagemap.take_written

        def interrupted(*arguments: Any) -> None:
            scan(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Pagemap, "take_written", interrupted)
            with pytest.raises(KeyboardInterrupt):
                tracker.collect()
        assert tracker.collect().num_pages >= 50
        assert other.collect().num_pages >= 30


@pytest.mark.parametrize("backend", ["pagemap_scan", "hash"])
def test_interrupted_after_the_scan_it_tells_all_the_next_time(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = pages(50)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with DirtyTracker(array, backend=backend) as tracker:
        array[0] = 1
        with monkeypatch.context() as patch:
            patch.setattr(WholeBlocks, "note", interrupted)
            with pytest.raises(KeyboardInterrupt):
                tracker.collect()
        assert tracker.collect().num_pages == 50
        assert not len(tracker.collect())


def test_a_start_that_is_interrupted_takes_nothing_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    array = pages(50)
    scan = Pagemap.take_written

    def interrupted(*arguments: Any) -> None:
        scan(*arguments)
        raise KeyboardInterrupt

    with DirtyTracker(array) as tracker:
        array[7 * PAGE] = 1
        with monkeypatch.context() as patch:
            patch.setattr(Pagemap, "take_written", interrupted)
            with pytest.raises(KeyboardInterrupt):
                DirtyTracker(array[5 * PAGE :]).start()
        assert tracker.collect().num_pages >= 1


def test_a_tracker_that_is_seldom_asked_keeps_few_notes() -> None:
    array = pages(50)
    with DirtyTracker(array) as seldom, DirtyTracker(array) as often:
        for number in range(500):
            array[number % 9 * PAGE] += 1
            often.collect()
        assert max(len(one.noted) for one in WATCHED._watchers) < 100
        assert seldom.collect().num_pages == 9


def test_another_userfaultfd_is_named() -> None:
    memory = mmap.mmap(-1, 4 * PAGE)
    start = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
    other = AsyncWriteProtection()
    try:
        other.register(start, start + 4 * PAGE)
        with pytest.raises(RegionError, match="another userfaultfd"), DirtyTracker(memory):
            pass
    finally:
        other.close()
    with DirtyTracker(memory):
        pass


def test_a_kernel_that_cannot_is_replaced_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(userfault, "open_userfaultfd", refused)
    array = pages(4)
    with pytest.raises(BackendUnavailableError, match=r"not permitted \(a sandbox") as caught:
        DirtyTracker(array, backend="pagemap_scan").start()
    assert caught.value.backend == "pagemap_scan"
    with DirtyTracker(array) as tracker:
        array[0] = 1
        assert tracker.collect().num_pages == 1
        assert tracker.statistics().backend == "hash"


def test_a_tracker_that_nobody_closed_is_no_complaint_at_the_end() -> None:
    script = """
import numpy as np
from hatchway.memory import DirtyTracker
array = np.zeros(9999)
tracker = DirtyTracker(array)
tracker.start()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_wrong_arguments_are_named() -> None:
    array = np.zeros(10)
    with pytest.raises(ValueError, match="whole_above is 2"):
        DirtyTracker(array, whole_above=2)
    with pytest.raises(ValueError, match="backend is 'best'; it may be 'auto', 'pagemap_scan'"):
        DirtyTracker(array, backend="best").start()
    assert set(backends.BACKENDS) == {"pagemap_scan", "hash"}
