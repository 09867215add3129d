"""Refcounts of every width lie in a file as the format says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatchway.disk.refcount_bits import packed_counts, unpacked_counts

WIDTHS = [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    ("bits", "packed"),
    [
        (1, "05"),
        (2, "11"),
        (4, "0101"),
        (8, "01000100"),
        (16, "0001000000010000"),
    ],
)
def test_the_first_refcount_lies_in_the_lowest_bits_or_first_bytes(bits: int, packed: str) -> None:
    raw = bytes.fromhex(packed)
    found = unpacked_counts(raw, bits)
    assert found[:4].tolist() == [1, 0, 1, 0]
    assert packed_counts(found, bits) == raw


@pytest.mark.parametrize("bits", WIDTHS)
@given(data=st.data())
def test_what_was_packed_is_unpacked(bits: int, data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=8, max_size=64))
    whole = counts[: len(counts) // 8 * 8]
    raw = packed_counts(np.array(whole, np.uint64), bits)
    assert len(raw) == len(whole) * bits // 8
    assert unpacked_counts(raw, bits).tolist() == whole
    # As one number, lowest refcount first, up to a byte; big-endian numbers from there on.
    if bits <= 8:
        assert int.from_bytes(raw, "little") == sum(one << i * bits for i, one in enumerate(whole))
