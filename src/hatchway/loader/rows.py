"""Samples of one fixed structure, each a row of arrays that lie in shared memory.

Where every sample is the same nest of tuples, lists and dicts of tensors,
arrays and numbers, a sample is written straight into its row of its batch: its
bytes are copied once and the rows together already are what
``default_collate`` would make of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

_ALIGN = 64
_MAX_LEAVES = 64
_LEAF_TYPES = {"tensor": torch.Tensor, "array": np.ndarray, "int": int, "float": float}


class Leaf(NamedTuple):
    """One array of a structure: ``batch x shape`` of ``dtype``."""

    kind: str  # "tensor", "array", "int", "float"
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * self.dtype.itemsize


class Nest(NamedTuple):
    """A tuple, list or dict of leaves and nests."""

    kind: type
    keys: tuple[Any, ...]
    items: tuple[Any, ...]


Node = Leaf | Nest


class RowLayout:
    """Where the arrays of a structure lie in a block of ``count`` rows."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self.leaves = tuple(_leaves(root))
        self.row_bytes = sum(leaf.row_bytes for leaf in self.leaves)

    def offsets(self, count: int) -> list[int]:
        """The byte offset of each leaf's array in a block of ``count`` rows."""
        offsets, offset = [], 0
        for leaf in self.leaves:
            offsets.append(offset)
            offset += -(-leaf.row_bytes * count // _ALIGN) * _ALIGN
        return offsets

    def block_bytes(self, count: int) -> int:
        """Bytes of a block of ``count`` rows."""
        return sum(-(-leaf.row_bytes * count // _ALIGN) * _ALIGN for leaf in self.leaves)

    def batch(self, memory: memoryview, count: int) -> Any:
        """The rows as one batch, as ``default_collate`` returns it; views of memory."""
        arrays = iter(self.tensors(memory, count))
        return _build(self.root, arrays, _as_batch)

    def sample_of(self, arrays: list[torch.Tensor], row: int) -> Any:
        """One row of :meth:`tensors` as the sample that was written; views of memory."""
        return _build(self.root, iter([array[row] for array in arrays]), _as_sample)

    def describe(self, count: int) -> tuple[Any, ...]:
        """The structure of a block of ``count`` rows for the native writer."""
        return _describe(self.root, iter(self.offsets(count)), count)

    def tensors(self, memory: memoryview, count: int) -> list[torch.Tensor]:
        """Each leaf's array, ``count x shape``; they keep ``memory`` alive."""
        return [
            torch.frombuffer(
                memory[offset : offset + leaf.row_bytes * count], dtype=leaf.dtype
            ).view(count, *leaf.shape)
            for leaf, offset in zip(self.leaves, self.offsets(count), strict=True)
        ]


class RowWriter:
    """Writes samples into the rows of one block.

    Args:
        layout: The agreed structure.
        memory: The block.
        count: How many rows it has.
        keeps_strides: Whether a sample whose tensors are not contiguous is
            refused, because its strides would be lost.
    """

    def __init__(
        self, layout: RowLayout, memory: memoryview, count: int, *, keeps_strides: bool = False
    ) -> None:
        self._keeps_strides = keeps_strides
        arrays = []
        for leaf, offset in zip(layout.leaves, layout.offsets(count), strict=True):
            dtype = _numpy_dtype(leaf.dtype)
            flat = np.frombuffer(memory, dtype, count * math.prod(leaf.shape), offset)
            arrays.append(flat.reshape(count, *leaf.shape))
        self._write = _writer(layout.root, iter(arrays))

    def write(self, row: int, sample: object) -> bool:
        """Write a sample; False, with the row undefined, if it does not fit."""
        try:
            if self._keeps_strides and not _is_contiguous(sample):
                return False
            return self._write(row, sample)
        except (TypeError, RuntimeError, OverflowError):
            # A tensor that NumPy cannot see (requires grad, not on the CPU), or an
            # integer beyond 64 bits: pickled instead, as any other sample.
            return False


def _describe(node: Node, offsets: Iterator[int], count: int) -> tuple[Any, ...]:
    if isinstance(node, Nest):
        items = tuple(_describe(item, offsets, count) for item in node.items)
        return "mapping" if node.kind is dict else "sequence", node.kind, node.keys, items
    form = np.empty(0, _numpy_dtype(node.dtype)).data.format
    kind = _LEAF_TYPES[node.kind]
    bits = 8 * node.dtype.itemsize
    where = (next(offsets), count, node.row_bytes, node.shape)
    return (node.kind, kind, *where, form, _dlpack_code(node.dtype), bits)


def _dlpack_code(dtype: torch.dtype) -> int:
    """DLPack's number for the kind of a dtype."""
    if dtype is torch.bool:
        return 6
    if dtype.is_complex:
        return 5
    if dtype.is_floating_point:
        return {torch.bfloat16: 4}.get(dtype, 2 if dtype in _TO_NUMPY else 255)
    return 0 if dtype.is_signed else 1


def _is_contiguous(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.is_contiguous()
    if isinstance(value, np.ndarray):
        return bool(value.flags.c_contiguous)
    if isinstance(value, dict):
        return all(_is_contiguous(item) for item in value.values())
    return not isinstance(value, list | tuple) or all(_is_contiguous(item) for item in value)


def layout_of(sample: object) -> RowLayout | None:
    """The layout that fits ``sample``, or None if it has no fixed structure."""
    root = _node_of(sample, 0)
    if root is None:
        return None
    layout = RowLayout(root)
    if not layout.leaves or len(layout.leaves) > _MAX_LEAVES or not layout.row_bytes:
        return None
    if any(leaf.row_bytes == 0 for leaf in layout.leaves):
        return None
    return layout


def _node_of(value: Any, depth: int) -> Node | None:
    kind = type(value)
    if kind is torch.Tensor:
        fits = value.device.type == "cpu" and value.layout is torch.strided
        if not fits or value.is_nested or value.requires_grad or value.dtype not in _BITS:
            return None
        return Leaf("tensor", value.dtype, tuple(value.shape))
    if kind is np.ndarray:
        dtype = _FROM_NUMPY.get(value.dtype)
        return None if dtype is None else Leaf("array", dtype, value.shape)
    if kind is int:
        return Leaf("int", torch.int64, ())
    if kind is float:
        return Leaf("float", torch.float64, ())
    if depth > 8 or kind not in (tuple, list, dict) or not value:
        return None
    keys = tuple(value) if kind is dict else ()
    items = tuple(_node_of(item, depth + 1) for item in (value.values() if keys else value))
    return None if None in items else Nest(kind, keys, items)


def _leaves(node: Node) -> Iterator[Leaf]:
    if isinstance(node, Leaf):
        yield node
    else:
        for item in node.items:
            yield from _leaves(item)


def _build(
    node: Node, arrays: Iterator[torch.Tensor], leaf_of: Callable[[Leaf, torch.Tensor], Any]
) -> Any:
    if isinstance(node, Leaf):
        return leaf_of(node, next(arrays))
    items = [_build(item, arrays, leaf_of) for item in node.items]
    if node.kind is dict:
        return dict(zip(node.keys, items, strict=True))
    if leaf_of is _as_batch:
        return items  # default_collate makes a list of tuples, too
    return node.kind(items)


def _as_batch(leaf: Leaf, rows: torch.Tensor) -> Any:
    return rows


def _as_sample(leaf: Leaf, row: torch.Tensor) -> Any:
    if leaf.kind == "tensor":
        return row
    return row.numpy() if leaf.kind == "array" else row.item()


def _writer(node: Node, arrays: Iterator[Any]) -> Callable[[int, Any], bool]:
    if isinstance(node, Leaf):
        return _leaf_writer(node, next(arrays))
    kind: Any = node.kind
    size = len(node.items)
    writers = [_writer(item, arrays) for item in node.items]
    if kind is dict:
        keyed = list(zip(node.keys, writers, strict=True))
        keys = list(node.keys)

        def write_dict(row: int, value: Any) -> bool:
            if type(value) is not dict or list(value) != keys:
                return False
            return all(write(row, value[key]) for key, write in keyed)

        return write_dict
    if size == 2:
        # (input, target) is what most datasets return.
        first, second = writers

        def write_pair(row: int, value: Any) -> bool:
            if type(value) is not kind or len(value) != 2:
                return False
            return first(row, value[0]) and second(row, value[1])

        return write_pair

    def write_items(row: int, value: Any) -> bool:
        if type(value) is not kind or len(value) != size:
            return False
        return all(write(row, item) for write, item in zip(writers, value, strict=True))

    return write_items


def _leaf_writer(leaf: Leaf, rows: Any) -> Callable[[int, Any], bool]:
    dtype, shape = leaf.dtype, leaf.shape
    if leaf.kind in ("int", "float"):
        number = int if leaf.kind == "int" else float

        def write_number(row: int, value: Any) -> bool:
            if type(value) is not number:
                return False
            rows[row] = value
            return True

        return write_number
    if leaf.kind == "array":
        array_dtype = rows.dtype

        def write_array(row: int, value: Any) -> bool:
            if type(value) is not np.ndarray or value.dtype != array_dtype or value.shape != shape:
                return False
            rows[row] = value
            return True

        return write_array
    if dtype in _TO_NUMPY:

        def write_tensor(row: int, value: Any) -> bool:
            if type(value) is not torch.Tensor or value.dtype is not dtype or value.shape != shape:
                return False
            rows[row] = value.numpy()
            return True

        return write_tensor
    bits = _BITS[dtype]

    def write_bits(row: int, value: Any) -> bool:
        if type(value) is not torch.Tensor or value.dtype is not dtype or value.shape != shape:
            return False
        rows[row] = value.view(bits).numpy()
        return True

    return write_bits


def _numpy_dtype(dtype: torch.dtype) -> Any:
    return _TO_NUMPY.get(dtype) or _TO_NUMPY[_BITS[dtype]]


_TO_NUMPY: dict[torch.dtype, Any] = {
    torch.bool: np.dtype(np.bool_),
    torch.uint8: np.dtype(np.uint8),
    torch.int8: np.dtype(np.int8),
    torch.int16: np.dtype(np.int16),
    torch.int32: np.dtype(np.int32),
    torch.int64: np.dtype(np.int64),
    torch.float16: np.dtype(np.float16),
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.complex64: np.dtype(np.complex64),
    torch.complex128: np.dtype(np.complex128),
}
_FROM_NUMPY: dict[Any, torch.dtype] = {array: tensor for tensor, array in _TO_NUMPY.items()}
# Dtypes that NumPy lacks are copied as integers of the same width.
_BITS: dict[torch.dtype, torch.dtype] = {dtype: dtype for dtype in _TO_NUMPY}
_BITS[torch.bfloat16] = torch.int16
for _name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"):
    if hasattr(torch, _name):
        _BITS[getattr(torch, _name)] = torch.uint8
