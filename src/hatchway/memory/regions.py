"""The memory that a tracker watches: tensors, arrays, buffers, and plain addresses."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from hatchway.memory.errors import RegionError
from hatchway.memory.ranges import Ranges, union

PAGE_BYTES = mmap.PAGESIZE


class Region(NamedTuple):
    """Memory that is watched as one.

    Attributes:
        start: Its first address.
        end: The address after its last.
        owner: What keeps it mapped, as it was given or as a buffer of that; None of plain
            addresses.
        where: Says where the owner lies now; None if it cannot move.
        name: For messages.
    """

    start: int
    end: int
    owner: object
    where: Callable[[], tuple[int, int]] | None
    name: str

    def check(self) -> None:
        """Raise if the owner does not lie there any more.

        Raises:
            RegionError: If so.
        """
        if self.where is not None and self.where() != (self.start, self.end):
            raise RegionError(
                f"{self.name} lay at {self.start:#x} to {self.end:#x} and has moved since (was it "
                "resized, or its data replaced?); make a new tracker",
                start=self.start,
                end=self.end,
            )


def regions_of(sources: Any) -> list[Region]:
    """The regions that a user means.

    Args:
        sources: A tensor of torch's on the CPU, an array, a buffer (``bytearray``,
            ``mmap.mmap``, ``memoryview``), or an ``(address, length)`` in bytes; or an iterable
            of them.

    Raises:
        TypeError: If it is none of these.
        ValueError: If one of them is empty, not in memory of the host, or outside of what a
            process can address.
    """
    found = _region_of(sources)
    if found is not None:
        return [found]
    if isinstance(sources, str) or not isinstance(sources, Iterable):
        raise _wrong(sources, "regions")
    regions = [region_of(source, f"regions[{rank}]") for rank, source in enumerate(sources)]
    if not regions:
        raise ValueError("regions is empty; name what to track")
    return regions


def region_of(source: Any, name: str) -> Region:
    """The region that a user means by one object.

    Args:
        source: As in :func:`regions_of`, one of them.
        name: What the user calls it, for messages.

    Raises:
        TypeError: As there.
        ValueError: As there.
    """
    found = _region_of(source)
    if found is None:
        raise _wrong(source, name)
    return found


def bytes_at(address: int, num_bytes: int) -> memoryview:
    """Memory of this process, which must be mapped for as long as the view is used."""
    return memoryview((ctypes.c_char * num_bytes).from_address(address)).cast("B")


def _wrong(source: object, name: str) -> TypeError:
    return TypeError(
        f"{name} is a {type(source).__name__}; it may be a tensor, an array, a buffer that can be "
        "written to, or (address, length)"
    )


def pages_of(regions: Iterable[Region]) -> Ranges:
    """The pages that regions lie on, whole ones."""
    rows = [
        (region.start // PAGE_BYTES * PAGE_BYTES, -(-region.end // PAGE_BYTES) * PAGE_BYTES)
        for region in regions
    ]
    return union(np.array(rows, np.int64).reshape(-1, 2))


def _region_of(source: Any) -> Region | None:
    if isinstance(source, tuple) and len(source) == 2 and all(map(_is_int, source)):
        address, length = map(int, source)
        return _checked(address, address + length, None, None, f"region at {address:#x}")
    if hasattr(source, "data_ptr") and hasattr(source, "untyped_storage"):
        return _tensor(source)
    if isinstance(source, np.ndarray):
        return _array(source)
    try:
        view = memoryview(source)
    except TypeError:
        return None
    if view.readonly:
        raise ValueError(f"a {type(source).__name__} that cannot be written to is never dirty")
    if not view.contiguous:
        raise ValueError("a memoryview with gaps cannot be tracked; take that of the whole")
    name = f"{type(source).__name__} of {view.nbytes} bytes"
    if not view.nbytes:
        raise ValueError(f"{name} is empty")
    start = ctypes.addressof(ctypes.c_char.from_buffer(view.cast("B")))
    # The view keeps its owner from being resized or closed.
    return _checked(start, start + view.nbytes, view, None, name)


def _tensor(tensor: Any) -> Region:
    """The extent of a tensor, which torch need not be imported for."""
    if tensor.is_nested or str(tensor.layout) != "torch.strided":
        kind = "nested" if tensor.is_nested else tensor.layout
        raise ValueError(f"a tensor is {kind}; only dense ones lie in one place: give its parts")
    name = f"tensor of shape {tuple(tensor.shape)}"
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} lies on {tensor.device}; only memory of the host is tracked")
    if not tensor.numel():
        raise ValueError(f"{name} is empty")

    def where() -> tuple[int, int]:
        item_bytes = tensor.element_size()
        strides = [step * item_bytes for step in tensor.stride()]
        return _extent(tensor.data_ptr(), tensor.shape, strides, item_bytes)

    return _checked(*where(), tensor, where, name)


def _array(array: np.ndarray[Any, Any]) -> Region:
    name = f"array of shape {array.shape}"
    if not array.size:
        raise ValueError(f"{name} is empty")
    if array.dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, whose own bytes lie elsewhere")

    def where() -> tuple[int, int]:
        start: int = array.__array_interface__["data"][0]
        return _extent(start, array.shape, array.strides, array.itemsize)

    return _checked(*where(), array, where, name)


def _extent(
    start: int, shape: Iterable[int], strides: Iterable[int], item_bytes: int
) -> tuple[int, int]:
    """From the lowest byte of an array to the one after its highest."""
    reaches = [(length - 1) * step for length, step in zip(shape, strides, strict=True)]
    lowest = sum(reach for reach in reaches if reach < 0)
    highest = sum(reach for reach in reaches if reach > 0)
    return start + lowest, start + highest + item_bytes


def _checked(start: int, end: int, owner: object, where: Any, name: str) -> Region:
    if not 0 < start < end < 1 << 63:
        raise ValueError(f"{name} has {end - start} bytes at {start:#x}; both must be above 0")
    return Region(start, end, owner, where, name)


def _is_int(value: object) -> bool:
    # Arrays and tensors have __index__ too.
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
