"""Batches are views of shared memory, are the user's alone, and live while they are kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from hatchway import DataLoader
from hatchway.loader import BufferFullError
from tests.property import nests
from tests.real.gates import PATIENCE_S
from tests.real.places import is_shared
from tests.real.shapes import Samples, as_list, frozen, own_class

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc/self/maps"),
]
KIB = 1 << 10
MIB = 1 << 20


def load(dataset: Any, batch_size: int | None = 4, **arguments: Any) -> DataLoader[Any]:
    chosen: dict[str, Any] = {"num_workers": 2, "timeout": PATIENCE_S}
    return DataLoader(dataset, batch_size, **(chosen | arguments))


class Blocks(Dataset[Any]):
    """Sample n is ``num_bytes`` long and full of n."""

    def __init__(self, num_samples: int, num_bytes: int) -> None:
        self.num_samples = num_samples
        self.num_bytes = num_bytes

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.full((self.num_bytes // 8,), number)


class Pairs(Blocks):
    """Sample n is two blocks in a dict."""

    def __getitem__(self, number: int) -> Any:
        block = super().__getitem__(number)
        return {"a": block, "b": -block}


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize(
    "arguments", [{}, {"collate_fn": torch.stack}, {"batch_size": 1}, {"batch_size": None}], ids=str
)
def test_a_batch_lies_in_shared_memory_and_not_in_a_copy(
    order: str, arguments: dict[str, Any]
) -> None:
    for batch in load(Blocks(8, 4 * KIB), order=order, **arguments):
        assert is_shared(batch.data_ptr())
        assert not is_shared(batch.clone().data_ptr())


def test_numpy_arrays_of_a_batch_are_views_too() -> None:
    arrays = Samples(lambda number: np.full((512,), number), 4)
    for batch in load(arrays, collate_fn=as_list):
        for array in batch:
            assert is_shared(array.ctypes.data)
            assert array.flags.writeable


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_a_kept_batch_does_not_change_while_later_ones_are_read(order: str) -> None:
    kept, pictures = [], []
    for number, batch in enumerate(load(Blocks(200, 2 * KIB), order=order)):
        if number % 7 == 0:
            kept.append(batch)
            pictures.append(batch.clone())
    for batch, picture in zip(kept, pictures, strict=True):
        assert torch.equal(batch, picture)


def test_one_kept_tensor_of_a_batch_keeps_its_memory() -> None:
    loader = load(Pairs(200, 2 * KIB))
    kept = [batch["b"][1:, 3] for batch in loader]
    for number, part in enumerate(kept):
        assert part.tolist() == [-(4 * number + row) for row in (1, 2, 3)]


def test_batches_stay_valid_when_their_loader_is_gone() -> None:
    loader = load(Blocks(16, 2 * KIB))
    kept = list(loader)
    del loader
    assert [batch[:, -1].tolist() for batch in kept] == [[*range(n, n + 4)] for n in (0, 4, 8, 12)]


def test_the_memory_of_dropped_batches_is_used_again() -> None:
    loader = load(Blocks(600, 16 * KIB), prefetch_factor=3)
    for batch in loader:
        assert batch.shape == (4, 2 * KIB)
    statistics = loader.statistics()
    # The window holds 6 batches of 64 KiB; the epoch is 9.4 MiB.
    assert statistics.buffer_peak_bytes < 2 * MIB
    assert statistics.num_copied_batches == 0


def test_the_memory_of_kept_batches_is_not() -> None:
    loader = load(Blocks(100, 16 * KIB), buffer_bytes=16 * MIB)
    kept = list(loader)
    statistics = loader.statistics()
    assert statistics.buffer_used_bytes >= 25 * 64 * KIB
    assert statistics.num_copied_batches == 0
    assert all(is_shared(batch.data_ptr()) for batch in kept)


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_batches_kept_beyond_their_part_of_the_buffer_are_copied_and_valid(order: str) -> None:
    loader = load(Blocks(160, 16 * KIB), order=order, buffer_bytes=2 * MIB)
    kept = list(loader)
    shared = [batch for batch in kept if is_shared(batch.data_ptr())]
    assert loader.statistics().num_copied_batches == len(kept) - len(shared) > 0
    assert 0 < len(shared) * 64 * KIB <= MIB
    rows = sorted(row for batch in kept for row in batch[:, 17].tolist())
    assert rows == list(range(160))
    assert loader.statistics().buffer_peak_bytes <= 2 * MIB


def test_a_change_in_place_stays_in_its_batch() -> None:
    dataset = [torch.full((512,), number) for number in range(40)]
    loader = load(dataset, persistent_workers=True)
    for _ in range(2):
        kept = []
        for batch in loader:
            batch += 1000
            kept.append(batch)
        assert [batch[0, 0].item() for batch in kept] == list(range(1000, 1040, 4))
    assert dataset[7][0] == 7


DTYPES = [*nests.DTYPES, torch.uint16, torch.uint32, torch.uint64]


def of_all_dtypes(number: int) -> list[torch.Tensor]:
    return [torch.tensor([0, 1, number % 2, 1]).to(dtype) for dtype in DTYPES]


@pytest.mark.parametrize("arguments", [{"batch_size": None}, {"collate_fn": as_list}, {}], ids=str)
def test_tensors_of_every_dtype_arrive_bit_by_bit(arguments: dict[str, Any]) -> None:
    def run(loader_class: Any, **more: Any) -> Any:
        dataset = Samples(of_all_dtypes, 6)
        return [frozen(batch) for batch in loader_class(dataset, 2, **(arguments | more))]

    if "batch_size" in arguments:
        expected = [frozen(of_all_dtypes(number)) for number in range(6)]
        assert [frozen(s) for s in load(Samples(of_all_dtypes, 6), **arguments)] == expected
    else:
        assert run(DataLoader, num_workers=2) == run(torch.utils.data.DataLoader, num_workers=1)


def of_all_strides(number: int) -> dict[str, torch.Tensor]:
    image = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5) + number
    return {
        "channels_last": image.contiguous(memory_format=torch.channels_last),
        "transposed": image[0, 0].t(),
        "every other": image[:, ::2],
        "expanded": torch.tensor([number]).expand(3, 4),
        "a scalar": torch.tensor(number),
        "a part": image.flatten()[7:19],
    }


@pytest.mark.parametrize("arguments", [{"batch_size": None}, {"collate_fn": as_list}], ids=str)
def test_tensors_of_every_stride_arrive_with_their_values(arguments: dict[str, Any]) -> None:
    dataset = Samples(of_all_strides, 8)
    batches = list(load(dataset, order="strict", **arguments))
    samples = batches if "batch_size" in arguments else [s for batch in batches for s in batch]
    for number, sample in enumerate(samples):
        expected = of_all_strides(number)
        assert sample.keys() == expected.keys()
        assert all(torch.equal(sample[name], expected[name]) for name in sample)


def test_arrays_with_negative_strides_and_views_of_one_tensor_are_copied_apart() -> None:
    upside_down = [np.arange(3)[::-1]] * 2
    (batch,) = DataLoader(upside_down, 2, num_workers=1)
    assert batch.tolist() == [[2, 1, 0]] * 2
    whole = torch.arange(3)
    (sample,) = DataLoader([(whole, whole[1:])], None, num_workers=1)
    sample[0][:] = 7
    assert sample[1].tolist() == [1, 2]
    assert not sample[0].is_shared()


def test_dense_strides_are_kept_where_no_rows_are_made_of_samples() -> None:
    for sample in load(Samples(of_all_strides, 4), None):
        assert sample["channels_last"].is_contiguous(memory_format=torch.channels_last)
        assert sample["transposed"].stride() == (1, 5)


def assorted(number: int) -> Any:
    return {
        "none": None,
        "text": "text",
        "bytes": b"\0\1",
        "set": {1, 2},
        "class": own_class(number)[0],
        "type": Path,
        "array of objects": np.array([None, "a"], dtype=object),
        "array of text": np.array(["ab", "c"]),
        "structured": np.zeros(3, dtype=[("x", "f4"), ("y", "i8")]),
        "big endian": np.arange(3, dtype=">i4"),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "huge": 1 << 100,
        "sparse": torch.eye(3).to_sparse(),
        "leaf": torch.ones(2, requires_grad=True),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "empty": ((), [], {}),
    }


@pytest.mark.parametrize("batch_size", [None, 3])
def test_anything_that_pickle_takes_arrives(batch_size: int | None) -> None:
    dataset = Samples(assorted, 6)
    batches = list(load(dataset, batch_size, order="strict", collate_fn=as_list))
    samples = batches if batch_size is None else [sample for batch in batches for sample in batch]
    for number, sample in enumerate(samples):
        expected = assorted(number)
        assert list(sample) == list(expected)
        for name in ("none", "text", "bytes", "set", "type", "huge", "empty"):
            assert sample[name] == expected[name]
            assert type(sample[name]) is type(expected[name])
        for name in ("array of objects", "array of text", "structured", "big endian", "fortran"):
            assert sample[name].dtype == expected[name].dtype
            assert np.array_equal(sample[name], expected[name])
        assert frozen(sample["class"]) == frozen(expected["class"])
        assert torch.equal(sample["sparse"].to_dense(), torch.eye(3))
        assert sample["leaf"].requires_grad
        assert isinstance(sample["parameter"], torch.nn.Parameter)


def test_a_sample_larger_than_the_buffer_is_an_error_that_names_the_argument() -> None:
    for batch_size in (1, 2, None):
        with pytest.raises(BufferFullError, match="raise buffer_bytes=") as caught:
            list(load(Blocks(4, 4 * MIB), batch_size, buffer_bytes=2 * MIB))
        assert caught.value.buffer_bytes == 2 * MIB < caught.value.needed_bytes
        del caught


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize("is_ragged", [False, True])
def test_collate_gets_views_of_the_buffer(is_ragged: bool, order: str) -> None:
    class Expensive(Dataset[Any]):
        def __len__(self) -> int:
            return 12

        def __getitem__(self, index: int) -> torch.Tensor:
            time.sleep(0.003)  # cheaper ones are collated without a detour
            return torch.zeros(1000 + index * is_ragged)

    def collate(samples: list[torch.Tensor]) -> list[bool]:
        return [is_shared(sample.data_ptr()) for sample in samples]

    loader: DataLoader[Any] = DataLoader(
        Expensive(), 4, num_workers=2, collate_fn=collate, order=order, timeout=30
    )
    assert [flag for batch in loader for flag in batch] == [True] * 12


def test_batches_are_views_of_the_buffer() -> None:
    iterator = iter(DataLoader(torch.arange(12), 4, num_workers=1, timeout=30))  # type: ignore[var-annotated,arg-type]
    batches = list(iterator)
    assert [is_shared(batch.data_ptr()) for batch in batches] == [True] * 3
    del batches, iterator
