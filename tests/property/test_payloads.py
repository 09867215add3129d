"""What goes into shared memory comes out of it, bit by bit and without a copy."""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hatchway.loader import payload
from tests.property.nests import arrays, nests, same, scalars, tensors


def through_memory(value: object, *, spare: int = 0) -> tuple[Any, mmap.mmap]:
    content = payload.dump(value)
    memory = mmap.mmap(-1, max(1, content.nbytes) + spare)
    memory[:] = b"\xaa" * len(memory)
    content.write(memoryview(memory))
    assert memory[content.nbytes :] == b"\xaa" * (len(memory) - content.nbytes)
    return payload.load(memoryview(memory)), memory


@given(value=nests(st.one_of(tensors(), arrays(), scalars)), spare=st.integers(0, 100))
def test_any_nest_comes_back_as_it_was(value: Any, spare: int) -> None:
    found, _ = through_memory(value, spare=spare)
    assert same(found, value)


def test_a_lone_element_may_have_any_stride() -> None:
    tensor = torch.arange(4, dtype=torch.int16)[2::2]
    assert tensor.stride() == (2,)
    assert same(through_memory(tensor)[0], tensor)


@given(tensor=tensors())
def test_dense_tensors_keep_their_strides(tensor: torch.Tensor) -> None:
    found, _ = through_memory(tensor)
    by_stride = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    if tensor.numel() > 1 and tensor.permute(by_stride).is_contiguous():
        big = [dim for dim in range(tensor.dim()) if tensor.shape[dim] > 1]
        assert [found.stride(dim) for dim in big] == [tensor.stride(dim) for dim in big]


@given(value=nests(st.one_of(tensors(), arrays())))
def test_arrays_and_tensors_are_views_of_the_memory(value: Any) -> None:
    found, memory = through_memory(value)
    first = np.frombuffer(memory, np.uint8).ctypes.data
    leaves: list[Any] = []

    def collect(nest: Any) -> None:
        if isinstance(nest, (torch.Tensor, np.ndarray)):
            leaves.append(nest)
        else:
            for item in nest.values() if isinstance(nest, dict) else nest:
                collect(item)

    collect(found)
    for leaf in leaves:
        address = leaf.data_ptr() if isinstance(leaf, torch.Tensor) else leaf.ctypes.data
        size = leaf.numel() if isinstance(leaf, torch.Tensor) else leaf.size
        # NumPy pickles an array that is not contiguous into the pickle itself.
        if size and (isinstance(leaf, torch.Tensor) or not leaf.flags.owndata):
            assert first <= address < first + len(memory)


@given(tensor=tensors().filter(lambda tensor: tensor.dtype.is_floating_point))
def test_a_leaf_that_requires_grad_still_does(tensor: torch.Tensor) -> None:
    found, _ = through_memory(tensor.detach().clone().requires_grad_())
    assert found.requires_grad
    assert found.is_leaf


def test_a_result_of_autograd_is_refused_with_the_way_out() -> None:
    with pytest.raises(RuntimeError, match=r"\.detach\(\)"):
        payload.dump(torch.ones(2, requires_grad=True) * 2)


@given(tensor=tensors())
def test_the_same_tensor_twice_stays_one(tensor: torch.Tensor) -> None:
    (one, other), _ = through_memory((tensor, tensor))
    assert one is other


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda dense: dense.to_sparse(),
        lambda dense: dense.to_sparse_csr(),
        lambda dense: dense.to_sparse_csc(),
        lambda dense: dense.to_sparse_bsr((2, 2)),
        lambda dense: dense.to_sparse_bsc((2, 2)),
        lambda dense: torch.sparse_coo_tensor(
            [[0, 0], [1, 1]], [1.0, 2.0], (4, 6), check_invariants=True
        ),
    ],
    ids=["coo", "csr", "csc", "bsr", "bsc", "not coalesced"],
)
@pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC|BSR|BSC) tensor support is in beta")
def test_sparse_tensors_keep_layout_and_values_and_are_not_kept_by_torch(
    make: Callable[[torch.Tensor], torch.Tensor], requires_grad: bool
) -> None:
    original = make(torch.arange(24.0).reshape(4, 6)).requires_grad_(requires_grad)
    content = payload.dump(original)
    memory = bytearray(content.nbytes)
    content.write(memoryview(memory))
    restored = payload.load(memoryview(memory))
    assert restored.layout == original.layout
    assert restored.requires_grad == requires_grad
    if original.layout is torch.sparse_coo:
        assert restored.is_coalesced() == original.is_coalesced()
    assert torch.equal(restored.detach().to_dense(), original.detach().to_dense())
    freed = weakref.ref(restored)
    del restored
    assert freed() is None
