"""Hypothesis strategies for samples: nests of tensors, arrays, numbers and text."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
full_shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)


def tensor_of(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """A tensor of random bits, NaNs included; booleans are 0 or 1."""
    count = int(np.prod(shape)) * dtype.itemsize
    bits = np.random.default_rng(seed).integers(0, 256, count).astype(np.uint8)
    if dtype is torch.bool:
        bits &= 1
    return (
        torch.from_numpy(bits).view(dtype).reshape(shape)
        if count
        else torch.empty(shape, dtype=dtype)
    )


def restrided(tensor: torch.Tensor, how: int) -> torch.Tensor:
    """The same values with other strides."""
    if how == 1 and tensor.dim() > 1:
        return (
            tensor.permute(*reversed(range(tensor.dim())))
            .contiguous()
            .permute(*reversed(range(tensor.dim())))
        )
    if how == 2 and tensor.dim():
        return torch.cat([tensor, tensor])[: len(tensor)]
    if how == 3 and tensor.dim():
        return torch.stack([tensor, tensor], dim=-1)[..., 0]
    return tensor


@st.composite
def tensors(draw: st.DrawFn, some_shapes: Any = shapes) -> torch.Tensor:
    tensor = tensor_of(
        draw(st.sampled_from(DTYPES)), draw(some_shapes), draw(st.integers(0, 2**32))
    )
    return restrided(tensor, draw(st.integers(0, 3)))


@st.composite
def arrays(draw: st.DrawFn, some_shapes: Any = shapes) -> np.ndarray[Any, Any]:
    tensor = tensor_of(
        draw(st.sampled_from([dtype for dtype in DTYPES if dtype not in _ONLY_TORCH])),
        draw(some_shapes),
        draw(st.integers(0, 2**32)),
    )
    array: np.ndarray[Any, Any] = restrided(tensor, draw(st.integers(0, 3))).numpy()
    return array


_ONLY_TORCH = {torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
)


def nests(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Tuples, lists and dicts of leaves, and of such nests."""
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
        ),
        max_leaves=6,
    )


def same(one: Any, other: Any) -> bool:
    """Whether two nests have the same types, shapes and bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        if one.dtype is not other.dtype or one.shape != other.shape:
            return False
        return bits_of(one) == bits_of(other)
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other or (one != one and other != other))


def bits_of(tensor: torch.Tensor) -> bytes:
    """The elements' bytes in row-major order."""
    if not tensor.numel():
        return b""
    dense = torch.empty(tensor.shape, dtype=tensor.dtype)
    return dense.copy_(tensor.detach()).reshape(-1).view(torch.uint8).numpy().tobytes()
