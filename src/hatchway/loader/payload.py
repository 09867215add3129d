"""Samples, batches and failures as bytes of shared memory, and back without a copy.

A payload is a pickle (protocol 5) whose large parts lie outside it: tensors and
arrays are written once, into the block, and read as views of it.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Sequence
from typing import Any

import torch

from hatchway.loader.copying import copy_bytes

_HEADER = struct.Struct("<QQ")
_ENTRY = struct.Struct("<QQ")
_ALIGN = 64


class Payload:
    """An object ready to be written: ``nbytes`` long."""

    __slots__ = ("_buffers", "_offsets", "_pickle", "nbytes")

    def __init__(self, pickled: bytes, buffers: Sequence[memoryview]) -> None:
        self._pickle = pickled
        self._buffers = buffers
        offset = _HEADER.size + _ENTRY.size * len(buffers) + len(pickled)
        self._offsets = []
        for buffer in buffers:
            offset = -(-offset // _ALIGN) * _ALIGN
            self._offsets.append(offset)
            offset += buffer.nbytes
        self.nbytes = offset

    def write(self, target: memoryview) -> None:
        """Write the payload to the beginning of ``target``."""
        _HEADER.pack_into(target, 0, len(self._pickle), len(self._buffers))
        at = _HEADER.size
        for buffer, offset in zip(self._buffers, self._offsets, strict=True):
            _ENTRY.pack_into(target, at, offset, buffer.nbytes)
            at += _ENTRY.size
            if buffer.nbytes:
                copy_bytes(target[offset : offset + buffer.nbytes], buffer)
        target[at : at + len(self._pickle)] = self._pickle


def dump(value: object) -> Payload:
    """Prepare ``value`` for shared memory.

    Raises:
        Exception: Whatever pickling ``value`` raises.
    """
    buffers: list[memoryview] = []
    stream = io.BytesIO()
    pickler = _Pickler(stream, 5, buffer_callback=lambda b: buffers.append(b.raw()))
    pickler.dump(value)
    return Payload(stream.getvalue(), buffers)


def load(source: memoryview) -> Any:
    """The value of the payload at the beginning of ``source``; a view of it.

    Tensors and arrays of the value keep ``source`` alive.
    """
    pickled, count = _HEADER.unpack_from(source, 0)
    at = _HEADER.size
    buffers = []
    for _ in range(count):
        offset, nbytes = _ENTRY.unpack_from(source, at)
        buffers.append(source[offset : offset + nbytes])
        at += _ENTRY.size
    return pickle.loads(source[at : at + pickled], buffers=buffers)


class _Pickler(pickle.Pickler):
    """Takes the bytes of dense CPU tensors out of the pickle."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is torch.Tensor:
            return _reduce_tensor(value)
        return NotImplemented


def _reduce_tensor(tensor: torch.Tensor) -> Any:
    if tensor.requires_grad and not tensor.is_leaf:
        raise RuntimeError(
            "a sample holds a tensor that requires grad and is not a leaf: autograd does not "
            "cross processes; call .detach() on it before it is returned"
        )
    if tensor.is_nested:
        return NotImplemented
    if (
        tensor.device.type == "cpu"
        and tensor.layout is not torch.strided
        and not tensor.is_conj()
        and not tensor.is_neg()
    ):
        return _reduce_sparse(tensor)
    if tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        return NotImplemented
    grad = tensor.requires_grad
    plain = tensor.detach() if grad else tensor
    order = None
    if not plain.is_contiguous():
        # A permuted dense tensor (channels_last, a transpose) keeps its strides.
        by_stride = sorted(range(plain.dim()), key=plain.stride, reverse=True)
        permuted = plain.permute(by_stride)
        order = by_stride if permuted.is_contiguous() else None
        plain = permuted if order else plain.contiguous()
    shape = tuple(plain.shape)
    if plain.numel() == 0:
        return _empty_tensor, (tuple(tensor.shape), tensor.dtype, grad)
    # Not reshape: a lone element counts as contiguous whatever its stride is.
    raw = plain.as_strided((plain.numel(),), (1,)).view(torch.uint8).numpy()
    return _tensor, (pickle.PickleBuffer(raw.data), tensor.dtype, shape, order, grad)


def _reduce_sparse(tensor: torch.Tensor) -> Any:
    """Not torch's way, which keeps every sparse tensor that it ever unpickled."""
    grad, shape, layout = tensor.requires_grad, tuple(tensor.shape), tensor.layout
    plain = tensor.detach()
    if layout is torch.sparse_coo:
        parts = (plain._indices(), plain._values())
        return _sparse_tensor, (parts, shape, plain.is_coalesced(), grad)
    if layout in (torch.sparse_csr, torch.sparse_bsr):
        rows = (plain.crow_indices(), plain.col_indices(), plain.values())
        return _compressed_tensor, (rows, shape, layout, grad)
    if layout in (torch.sparse_csc, torch.sparse_bsc):
        columns = (plain.ccol_indices(), plain.row_indices(), plain.values())
        return _compressed_tensor, (columns, shape, layout, grad)
    return NotImplemented


def _sparse_tensor(
    parts: tuple[torch.Tensor, torch.Tensor], shape: tuple[int, ...], coalesced: bool, grad: bool
) -> torch.Tensor:
    tensor = torch.sparse_coo_tensor(*parts, shape, is_coalesced=coalesced, check_invariants=False)
    return tensor.requires_grad_() if grad else tensor


def _compressed_tensor(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    shape: tuple[int, ...],
    layout: torch.layout,
    grad: bool,
) -> torch.Tensor:
    tensor = torch.sparse_compressed_tensor(*parts, shape, layout=layout, check_invariants=False)
    return tensor.requires_grad_() if grad else tensor


def _empty_tensor(shape: tuple[int, ...], dtype: torch.dtype, grad: bool) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, requires_grad=grad)


def _tensor(
    buffer: Any, dtype: torch.dtype, shape: tuple[int, ...], order: list[int] | None, grad: bool
) -> torch.Tensor:
    tensor = torch.frombuffer(buffer, dtype=dtype).view(shape)
    if order is not None:
        inverse = [0] * len(order)
        for place, dimension in enumerate(order):
            inverse[dimension] = place
        tensor = tensor.permute(inverse)
    return tensor.requires_grad_() if grad else tensor
