"""PAGEMAP_SCAN in native code and in Python answer alike."""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from hatchway.memory import BackendUnavailableError, pagemap
from hatchway.memory.pagemap import Pagemap
from hatchway.memory.userfault import AsyncWriteProtection

PAGE = mmap.PAGESIZE
NUM_PAGES = 4000


@contextmanager
def scanned(*, natively: bool) -> Iterator[tuple[Pagemap, AsyncWriteProtection]]:
    if natively and pagemap.KERNELS is None:
        pytest.skip("hatchway's compiled kernels are not built")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        if not natively:
            patch.setattr(pagemap, "KERNELS", None)
        try:
            protection = AsyncWriteProtection()
            stack.callback(protection.close)
            found = Pagemap()
        except BackendUnavailableError as reason:
            pytest.skip(str(reason))
        stack.callback(found.close)
        yield found, protection


@pytest.mark.parametrize("natively", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3, 700])
def test_they_find_every_page(natively: bool, step: int) -> None:
    array = np.frombuffer(mmap.mmap(-1, NUM_PAGES * PAGE), np.uint8)
    start: int = array.__array_interface__["data"][0]
    pages = start + PAGE * np.array([[0, 1500], [1510, NUM_PAGES]], np.int64)
    with scanned(natively=natively) as (scanner, protection):
        protection.register(start, start + len(array))
        scanner.take_written(pages)
        array[:: step * PAGE] = 1
        found, num_done, error = scanner.take_written(pages)
        assert (num_done, error) == (2, 0)
        assert not len(scanner.take_written(pages).found)
    told = [address for first, end in found.tolist() for address in range(first, end, PAGE)]
    written = range(0, NUM_PAGES, step)
    assert told == [start + page * PAGE for page in written if not 1500 <= page < 1510]
    assert (found[1:, 0] > found[:-1, 1]).all()


@pytest.mark.parametrize("natively", [False, True])
def test_they_name_the_range_that_fails(natively: bool) -> None:
    memory = mmap.mmap(-1, 30 * PAGE)
    start: int = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
    pages = start + PAGE * np.array([[0, 10], [20, 30]], np.int64)
    libc = ctypes.CDLL(None)
    with scanned(natively=natively) as (scanner, protection):
        protection.register(start, start + 10 * PAGE)
        assert scanner.take_written(pages)[1:] == (1, errno.EPERM)
        protection.register(start + 20 * PAGE, start + 30 * PAGE)
        assert scanner.take_written(pages)[1:] == (2, 0)
        hole = ctypes.c_void_p(start + 25 * PAGE), ctypes.c_size_t(PAGE)
        libc.munmap(*hole)
        assert scanner.take_written(pages)[1:] == (1, errno.ENOMEM)
