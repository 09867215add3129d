"""Other ways to read a disk find the same bytes."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatchway.disk import Chain
from tests.real import qemu

pytestmark = [pytest.mark.real, qemu.needs_qemu]

SIZE = 300_000
CONTENT = random.Random(5).randbytes(SIZE) + bytes(512 - SIZE % 512)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    base = qemu.raw(folder / "base.raw", CONTENT)
    top = folder / "top.qcow2"
    qemu.img("convert", "-q", "-f", "raw", "-O", "qcow2", "-c", base, top)
    return top


BOUNDS = st.none() | st.integers(-SIZE - 2000, SIZE + 2000)


@settings(max_examples=200, deadline=None)
@given(start=BOUNDS, stop=BOUNDS, step=st.none() | st.integers(-5, 5).filter(bool))
def test_slices_of_a_view_are_those_of_the_bytes(
    path: Path, start: int | None, stop: int | None, step: int | None
) -> None:
    with Chain(path) as chain:
        assert chain.view()[start:stop:step] == CONTENT[start:stop:step]
        part = chain.view(1000, 5000)
        assert part[start:stop:step] == CONTENT[1000:5000][start:stop:step]


def test_a_view_is_a_sequence_of_bytes(path: Path) -> None:
    with Chain(path) as chain:
        view = chain.view(7, 70_000)
        assert len(view) == 70_000 - 7
        assert (view[0], view[-1]) == (CONTENT[7], CONTENT[69_999])
        assert bytes(view) == CONTENT[7:70_000]
        with pytest.raises(IndexError):
            view[len(view)]
        copied = pickle.loads(pickle.dumps(view))
        assert copied[10:20] == view[10:20]
        with pytest.raises(
            ValueError, match=r"\[0, 300033\) is not within the disk's 300032 bytes"
        ):
            chain.view(0, 300_033)


def test_items_of_a_view_are_read_into_an_array(path: Path) -> None:
    with Chain(path) as chain:
        view = chain.view(512)
        found = view.array("<u4", first=3, count=100)
        assert found.tolist() == np.frombuffer(CONTENT, "<u4", 100, 512 + 12).tolist()
        assert found.flags.writeable
        assert len(view.array("<u4")) == (len(CONTENT) - 512) // 4
        with pytest.raises(ValueError, match=r"items \[74870, 74890\) are not within the 74880"):
            view.array("<u4", 74_870, 20)


@pytest.mark.parametrize("num_threads", [1, 4])
def test_many_reads_come_in_the_order_that_was_asked_for(path: Path, num_threads: int) -> None:
    place = random.Random(6)
    ranges = [(place.randrange(SIZE), place.randrange(5000)) for _ in range(200)]
    with Chain(path) as chain:
        found = chain.read_many(ranges, num_threads=num_threads)
        assert found == [CONTENT[start : start + size] for start, size in ranges]
        assert chain.read_many([]) == []
        with pytest.raises(ValueError, match="at least 0"):
            chain.read_many([(0, 1), (-1, 5)], num_threads=num_threads)
        with pytest.raises(ValueError, match="num_threads must be at least 1, not 0"):
            chain.read_many(ranges, num_threads=0)
