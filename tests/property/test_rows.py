"""Rows written one by one are the batch that torch's default_collate makes."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.data import default_collate

from hatchway.loader.rows import RowWriter, layout_of
from tests.property.nests import arrays, full_shapes, nests, restrided, same, tensor_of, tensors

INT64 = st.integers(-(2**63), 2**63 - 1)
leaves = st.one_of(tensors(full_shapes), arrays(full_shapes), INT64, st.floats(allow_nan=True))


def sibling(sample: Any, seed: int) -> Any:
    """A sample of the same structure with other values and strides."""
    if isinstance(sample, torch.Tensor):
        return restrided(tensor_of(sample.dtype, tuple(sample.shape), seed), seed % 4)
    if isinstance(sample, np.ndarray):
        dtype = torch.from_numpy(np.empty(0, sample.dtype)).dtype
        return restrided(tensor_of(dtype, sample.shape, seed), seed % 4).numpy()
    if isinstance(sample, dict):
        return {key: sibling(value, seed + 1) for key, value in sample.items()}
    if isinstance(sample, (list, tuple)):
        return type(sample)(sibling(item, seed + at) for at, item in enumerate(sample))
    return seed if isinstance(sample, int) else seed / 7


def rows_of(samples: list[Any]) -> Any:
    """The batch, the layout and its memory; None if there are no rows of this."""
    layout = layout_of(samples[0])
    if layout is None:
        return None
    memory = mmap.mmap(-1, layout.block_bytes(len(samples)))
    writer = RowWriter(layout, memoryview(memory), len(samples))
    fits = [writer.write(row, sample) for row, sample in enumerate(samples)]
    return layout, memoryview(memory), fits


@given(sample=nests(leaves), count=st.integers(1, 5), seed=st.integers(0, 2**30))
def test_the_batch_of_rows_is_that_of_default_collate(sample: Any, count: int, seed: int) -> None:
    samples = [sample, *(sibling(sample, seed + 100 * n) for n in range(1, count))]
    found = rows_of(samples)
    assume(found is not None)
    layout, memory, fits = found
    assert all(fits)
    assert same(layout.batch(memory, count), default_collate(samples))


@given(sample=nests(leaves), count=st.integers(1, 4), seed=st.integers(0, 2**30))
def test_each_row_read_back_is_the_sample(sample: Any, count: int, seed: int) -> None:
    samples = [sample, *(sibling(sample, seed + 100 * n) for n in range(1, count))]
    found = rows_of(samples)
    assume(found is not None)
    layout, memory, _ = found
    arrays_of_rows = layout.tensors(memory, count)
    for row, one in enumerate(samples):
        assert same(layout.sample_of(arrays_of_rows, row), one)


@given(sample=nests(leaves), other=nests(leaves))
def test_a_sample_of_another_structure_does_not_fit(sample: Any, other: Any) -> None:
    layout = layout_of(sample)
    assume(layout is not None)
    other_layout = layout_of(other)
    is_same = other_layout is not None and other_layout.root == layout.root  # type: ignore[union-attr]
    memory = mmap.mmap(-1, layout.block_bytes(1))  # type: ignore[union-attr]
    writer = RowWriter(layout, memoryview(memory), 1)  # type: ignore[arg-type]
    assert writer.write(0, other) == is_same


@given(sample=nests(leaves), count=st.integers(1, 9))
def test_arrays_of_a_block_are_aligned_and_do_not_overlap(sample: Any, count: int) -> None:
    layout = layout_of(sample)
    assume(layout is not None)
    assert layout is not None
    end = 0
    for leaf, offset in zip(layout.leaves, layout.offsets(count), strict=True):
        assert offset % 64 == 0
        assert offset >= end
        end = offset + leaf.row_bytes * count
    assert end <= layout.block_bytes(count)


@given(number=st.one_of(st.integers(min_value=2**63), st.integers(max_value=-(2**63) - 1)))
def test_an_integer_beyond_64_bits_does_not_fit_and_breaks_nothing(number: int) -> None:
    layout = layout_of((1, 2))
    assert layout is not None
    writer = RowWriter(layout, memoryview(bytearray(layout.block_bytes(1))), 1)
    assert not writer.write(0, (1, number))
    assert writer.write(0, (1, 2))
