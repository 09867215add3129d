"""The parts of a check that count: refcounts of any width, counts that widen, regions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatchway.disk.checking.counts import Counts
from hatchway.disk.checking.regions import disjoint
from hatchway.disk.refcount_bits import packed_counts, unpacked_counts


@given(order=st.integers(0, 6), data=st.data())
def test_refcounts_of_any_width_are_packed_and_unpacked(order: int, data: st.DataObject) -> None:
    bits = 1 << order
    per_byte = max(1, 8 // bits)
    counts = st.integers(0, (1 << bits) - 1)
    wanted = data.draw(st.lists(counts, min_size=per_byte, max_size=64))
    wanted = wanted[: len(wanted) // per_byte * per_byte]
    raw = packed_counts(np.array(wanted, np.uint64), bits)
    assert len(raw) == len(wanted) * bits // 8
    assert unpacked_counts(raw, bits).tolist() == wanted
    for rank, count in enumerate(wanted):
        if bits >= 8:
            found = int.from_bytes(raw[rank * bits // 8 : (rank + 1) * bits // 8], "big")
        else:
            found = raw[rank // per_byte] >> rank % per_byte * bits & (1 << bits) - 1
        assert found == count


@given(
    steps=st.lists(
        st.tuples(
            st.lists(st.integers(0, 99_999), min_size=1, max_size=50),
            st.sampled_from([1, 2, 200, 60_000, 1 << 33]),
        ),
        max_size=8,
    ),
    start=st.integers(0, 70_000),
    length=st.integers(1, 30_000),
)
def test_counts_are_exact_however_large(
    steps: list[tuple[list[int], int]], start: int, length: int
) -> None:
    widths: list[int] = []
    counts = Counts(100_000, widths.append)
    expected = np.zeros(100_000, np.uint64)
    counts.add_range(start, start + length, 3)
    expected[start : start + length] += np.uint64(3)
    for numbers, times in steps:
        counts.add(np.array(numbers, np.int64), times)
        np.add.at(expected, numbers, np.uint64(times))
    assert (counts.values == expected).all()
    assert widths == sorted(set(widths))
    most = int(expected.max())
    assert counts.values.itemsize == next(size for size in (1, 2, 4, 8) if most < 256**size)


def test_who_bounds_the_counts_can_refuse_wider_ones() -> None:
    def refuse(width: int) -> None:
        raise MemoryError(width)

    counts = Counts(10, refuse)
    counts.add(np.array([3]), 255)
    with pytest.raises(MemoryError, match="2"):
        counts.add(np.array([3]))


@given(regions=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=20))
def test_regions_are_cut_so_that_none_overlaps(regions: list[tuple[int, int]]) -> None:
    expected = [sum(start <= at < end for start, end in regions) for at in range(61)]
    found = disjoint(regions)
    covered = [0] * 61
    for region in found:
        for at in range(region.start, region.end):
            assert covered[at] == 0
            covered[at] = region.times
    assert covered == expected
