"""A leased block is given back once, by the process that leased it."""

from __future__ import annotations

import gc
import mmap
import os

import numpy as np
import pytest
import torch

from hatchway.loader.lease import lease


@pytest.fixture
def mapping() -> mmap.mmap:
    return mmap.mmap(-1, 4096)


def test_the_view_is_the_memory_itself(mapping: mmap.mmap) -> None:
    view = lease(mapping, 64, 16, lambda: None)
    assert view.nbytes == 16
    view[3] = 7
    assert mapping[67] == 7


def test_it_is_released_once_when_the_last_thing_on_it_is_gone(mapping: mmap.mmap) -> None:
    released: list[int] = []
    gc.disable()
    try:
        view = lease(mapping, 0, 64, lambda: released.append(1))
        tensor = torch.frombuffer(view[8:24], dtype=torch.int64)
        array = np.frombuffer(view, np.uint8)
        part = tensor[1:]
        del view, tensor
        assert released == []
        del array
        assert released == []
        del part
        assert released == [1]
        gc.collect()
        assert released == [1]
    finally:
        gc.enable()


def test_a_forked_child_releases_nothing(mapping: mmap.mmap) -> None:
    read, write = os.pipe()
    view = lease(mapping, 0, 64, lambda: os.write(write, b"released"))
    child = os.fork()
    if child == 0:
        del view
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.set_blocking(read, False)
    with pytest.raises(BlockingIOError):
        os.read(read, 100)
    del view
    assert os.read(read, 100) == b"released"
    os.close(read)
    os.close(write)
