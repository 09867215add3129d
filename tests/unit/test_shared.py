"""Memory, bells and the lock between processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import Any

import pytest

from hatchway.loader.shared import Bell, ProcessLock, SharedMapping, wait_readable

FORK = multiprocessing.get_context("fork")
PATIENCE_S = 30.0


@pytest.fixture
def bell() -> Any:
    bell = Bell()
    yield bell
    bell.close()


def rings(bell: Bell) -> bool:
    return wait_readable([bell.fileno()], 0) == [bell.fileno()]


def test_a_ring_before_the_sleep_is_not_lost(bell: Bell) -> None:
    assert not rings(bell)
    bell.ring()
    assert rings(bell)


def test_silence_forgets_every_ring_so_far(bell: Bell) -> None:
    for _ in range(10_000):
        bell.ring()
    bell.silence()
    assert not rings(bell)
    bell.silence()
    bell.ring()
    assert rings(bell)


def test_ringing_never_blocks_although_nobody_listens(bell: Bell) -> None:
    for _ in range(200_000):  # more than a pipe holds
        bell.ring()
    assert rings(bell)


def test_a_bell_wakes_another_process(bell: Bell) -> None:
    child = FORK.Process(target=bell.ring)
    child.start()
    assert wait_readable([bell.fileno()], PATIENCE_S) == [bell.fileno()]
    child.join()


def test_closing_twice_is_fine() -> None:
    bell, lock = Bell(), ProcessLock()
    for part in (bell, bell, lock, lock):
        part.close()


def test_waiting_takes_descriptors_that_select_does_not() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2100:
        pytest.skip("no more than 2,100 file descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2100), hard))
    read, write = os.pipe()
    high = os.dup2(read, 2000)
    os.write(write, b"x")
    assert wait_readable([high], PATIENCE_S) == [2000]
    for descriptor in (read, write, high):
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def try_lock(lock: ProcessLock, wants: Any, has: Any) -> None:
    wants.set()
    with lock:
        has.set()


def hold(lock: ProcessLock, has: Any, forever: Any) -> None:
    with lock:
        has.set()
        forever.wait()


def test_the_lock_is_held_by_one_process_at_a_time() -> None:
    lock = ProcessLock()
    wants, has = FORK.Event(), FORK.Event()
    child = FORK.Process(target=try_lock, args=(lock, wants, has))
    with lock:
        child.start()
        assert wants.wait(PATIENCE_S)
        assert not has.wait(0.1)
    assert has.wait(PATIENCE_S)
    child.join()
    lock.close()


def count_up(lock: ProcessLock, memory: Any) -> None:
    for _ in range(2000):
        with lock:
            memory[0] += 1


def test_what_the_lock_protects_is_not_lost() -> None:
    lock, cells = ProcessLock(), FORK.RawArray("q", 1)
    children = [FORK.Process(target=count_up, args=(lock, cells)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert cells[0] == 6000
    lock.close()


def test_the_lock_of_a_process_that_is_killed_is_free() -> None:
    lock = ProcessLock()
    has = FORK.Event()
    child = FORK.Process(target=hold, args=(lock, has, FORK.Event()))
    child.start()
    assert has.wait(PATIENCE_S)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    with lock:  # would block for ever
        child.join()
    lock.close()


def test_an_error_inside_lets_go_of_the_lock() -> None:
    lock, wants, has = ProcessLock(), FORK.Event(), FORK.Event()
    with pytest.raises(KeyError), lock:
        raise KeyError
    child = FORK.Process(target=try_lock, args=(lock, wants, has))
    child.start()
    assert has.wait(PATIENCE_S)
    child.join()
    lock.close()


@pytest.mark.parametrize("is_file", [False, True])
def test_memory_is_shared_zeroed_and_has_no_name(tmp_path: Any, is_file: bool) -> None:
    mapping = SharedMapping(1 << 20, directory=str(tmp_path) if is_file else None)
    assert mapping.has_fixed_size == is_file
    assert bytes(mapping.memory[:4096]) == bytes(4096)
    mapping.reserve(0, 8192)

    def write() -> None:
        mapping.memory[5000] = 42

    child = FORK.Process(target=write)
    child.start()
    child.join()
    assert mapping.memory[5000] == 42
    assert list(tmp_path.iterdir()) == []
    mapping.close()
    assert mapping.memory[5000] == 42


def test_memory_that_is_given_back_reads_as_zeros() -> None:
    mapping = SharedMapping(1 << 20)
    mapping.memory[4096:8192] = b"x" * 4096
    before = os.fstat(mapping.fd).st_blocks
    mapping.give_back(4096, 4096)
    assert os.fstat(mapping.fd).st_blocks < before
    assert bytes(mapping.memory[4096:8192]) == bytes(4096)
    mapping.close()
