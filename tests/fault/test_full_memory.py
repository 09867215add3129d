"""A buffer that is small or full slows the loader down or raises; it never hangs it."""

from __future__ import annotations

import gc
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader as StockLoader
from torch.utils.data import Dataset

from hatchway import DataLoader
from hatchway.loader import BufferFullError, SharedMemoryError
from hatchway.loader.shared import SharedMapping

pytestmark = pytest.mark.fault

MIB = 1 << 20


class Sized(Dataset[Any]):
    """Sample n has ``sizes[n]`` bytes, all of them ``n % 251``."""

    def __init__(self, sizes: list[int], *, as_text: bool = False) -> None:
        self.sizes = sizes
        self.as_text = as_text

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Any:
        if self.as_text:
            return chr(97 + index % 26) * self.sizes[index]
        return torch.full((self.sizes[index],), index % 251, dtype=torch.uint8)


def as_list(samples: list[Any]) -> list[Any]:
    return samples


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize("sample_bytes", [1_000, 30_000, 120_000])
def test_all_batches_can_be_kept_in_a_buffer_of_one_mebibyte(order: str, sample_bytes: int) -> None:
    dataset = Sized([sample_bytes] * 60)
    stock = sorted(StockLoader(dataset, 2), key=lambda batch: int(batch[0, 0]))
    loader = DataLoader(dataset, 2, num_workers=2, order=order, buffer_bytes=MIB, timeout=30)
    batches = list(loader)
    statistics = loader.statistics()
    del loader
    gc.collect()
    found = torch.cat(batches)[:, 0]
    assert sorted(found.tolist()) == torch.cat(stock)[:, 0].tolist()
    assert all((batch == batch[:, :1]).all() for batch in batches)
    assert statistics.buffer_peak_bytes <= MIB
    if order == "strict":
        assert all(torch.equal(one, other) for one, other in zip(batches, stock, strict=True))


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_ragged_samples_pass_through_a_small_buffer(
    order: str, as_text: bool, batch_size: int
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    # Two batches at their largest fill most of the buffer.
    dataset = Sized([draw.randint(1, 50_000) for _ in range(120)], as_text=as_text)
    loader = DataLoader(
        dataset,
        batch_size,
        num_workers=2,
        order=order,
        collate_fn=as_list,
        buffer_bytes=MIB,
        timeout=30,
    )
    found = [sample for batch in loader for sample in batch]
    expected = [dataset[index] for index in range(len(dataset))]
    if as_text:
        assert sorted(found) == sorted(expected)
    else:
        assert sorted(map(bytes, map(torch.Tensor.numpy, found))) == sorted(
            map(bytes, map(torch.Tensor.numpy, expected))
        )


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_one_sample_larger_than_the_buffer_costs_its_batch_only(order: str) -> None:
    sizes = [1000] * 12
    sizes[5] = 3 * MIB
    loader = DataLoader(
        Sized(sizes),
        3,
        num_workers=2,
        order=order,
        collate_fn=as_list,
        buffer_bytes=MIB,
        timeout=30,
    )
    found, errors = [], []
    iterator = iter(loader)
    while True:
        try:
            found += [int(sample[0]) for sample in next(iterator)]
        except StopIteration:
            break
        except BufferFullError as error:
            errors.append(error)
    (error,) = errors
    assert error.needed_bytes > error.buffer_bytes == MIB
    assert "buffer_bytes=" in str(error)
    # In ready order alone, unless its batch was collated within its chunk.
    lost = set(range(12)) - set(found)
    assert lost == {3, 4, 5} or (order == "ready" and lost == {5})
    assert len(found) == len(set(found))


@pytest.mark.parametrize("collate_fn", [None, as_list])
def test_a_batch_larger_than_the_buffer_is_an_error_and_not_a_hang(collate_fn: Any) -> None:
    loader = DataLoader(
        Sized([200_000] * 24),
        8,
        num_workers=2,
        order="strict",
        collate_fn=collate_fn,
        buffer_bytes=MIB,
        timeout=30,
    )
    with pytest.raises(BufferFullError, match="batch_size="):
        list(loader)


@pytest.mark.parametrize("order", ["strict", "ready"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_new_epoch_begins_although_the_buffer_is_full_of_the_last_one(
    order: str, batch_size: int
) -> None:
    dataset = Sized([150_000] * 40)
    loader = DataLoader(
        dataset,
        batch_size,
        num_workers=2,
        order=order,
        collate_fn=as_list,
        buffer_bytes=MIB,
        persistent_workers=True,
        timeout=30,
    )
    kept = []
    for _ in range(3):
        iterator = iter(loader)
        kept.append(next(iterator))
    found = sorted(int(sample[0]) for batch in loader for sample in batch)
    assert found == list(range(40))
    del iterator
    loader._iterator = None


@pytest.fixture
def tiny_file_system(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 256 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a tmpfs (CAP_SYS_ADMIN)")
    try:
        yield tmp_path
    finally:
        gc.collect()
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_full_file_system_is_an_error_before_it_is_a_bus_error(tiny_file_system: Path) -> None:
    mapping = SharedMapping(16 * MIB, directory=str(tiny_file_system))
    mapping.reserve(0, 128 << 10)
    mapping.memory[: 128 << 10] = bytes(128 << 10)
    with pytest.raises(SharedMemoryError, match="--shm-size"):
        mapping.reserve(128 << 10, 1 << 20)
    mapping.give_back(0, 128 << 10)
    mapping.close()


def test_the_loader_says_so_when_the_file_system_of_its_buffer_is_full(
    tiny_file_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hatchway.loader import commons

    def in_tiny(nbytes: int) -> SharedMapping:
        # The board is small; the buffer is what a file system may have no room for.
        tiny = nbytes >= 8 * MIB
        return SharedMapping(nbytes, directory=str(tiny_file_system) if tiny else None)

    monkeypatch.setattr(commons, "SharedMapping", in_tiny)
    loader = DataLoader(
        Sized([100_000] * 24), 4, num_workers=2, order="strict", buffer_bytes=4 * MIB, timeout=30
    )
    with pytest.raises(SharedMemoryError, match="--shm-size"):
        list(loader)
