"""What needs a GPU; ``make gpu-check`` runs these where there is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hatchway import DataLoader
from hatchway.loader.cuda import Cuda
from tests.real.shapes import Point

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use"),
]


class Numbered(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.full((3, 8, 8), float(i)), i


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_pinned_batches_arrive_on_the_device_unchanged(order: str) -> None:
    loader = DataLoader(
        Numbered(), batch_size=8, shuffle=True, num_workers=2, pin_memory=True, order=order
    )
    seen: list[int] = []
    for images, index in loader:
        assert images.is_pinned()
        assert index.is_pinned()
        on_device = images.to("cuda", non_blocking=True)
        assert torch.equal(on_device[:, 0, 0, 0].cpu().long(), index)
        seen += index.tolist()
    assert sorted(seen) == list(range(64))


def test_fork_after_cuda_was_used_is_an_error_in_the_sample_not_a_hang() -> None:
    torch.ones(1, device="cuda")

    class OnDevice(Numbered):
        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            return torch.ones(1, device="cuda"), i

    loader = DataLoader(OnDevice(), num_workers=1, multiprocessing_context="fork")
    with pytest.raises(RuntimeError, match="CUDA"):
        next(iter(loader))


NUM_BATCHES, BATCH, ROW_BYTES = 24, 8, 4 << 20
# Long enough for several batches to be copied, and dropped, before it is over.
LONG_CYCLES = 50_000_000


class Wide(torch.utils.data.Dataset[torch.Tensor]):
    """Sample n is 4 MiB full of n; as cheap to make as a copy."""

    def __len__(self) -> int:
        return NUM_BATCHES * BATCH

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.full((ROW_BYTES // 4,), i, dtype=torch.int32)


def wide_loader(**arguments: Any) -> DataLoader[torch.Tensor]:
    return DataLoader(
        Wide(),
        BATCH,
        num_workers=2,
        persistent_workers=True,
        buffer_bytes=2 << 30,
        device="cuda",
        **arguments,
    )


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("order", ["strict", "ready"])
def test_batches_are_on_the_device_with_their_structure(order: str, num_workers: int) -> None:
    class Nested(Numbered):
        def __getitem__(self, i: int) -> Any:
            image, _ = super().__getitem__(i)
            return {"image": image, "point": Point(torch.tensor([i]), float(i)), "name": str(i)}

    loader: DataLoader[Any] = DataLoader(
        Nested(), batch_size=8, num_workers=num_workers, order=order, device="cuda"
    )
    seen: list[int] = []
    for batch in loader:
        assert batch["image"].device == torch.device("cuda", torch.cuda.current_device())
        assert batch["point"].y.is_cuda
        numbers = batch["point"].x.flatten().tolist()
        assert batch["image"][:, 2, 7, 7].tolist() == numbers
        assert batch["name"] == [str(number) for number in numbers]
        seen += numbers
    assert sorted(seen) == list(range(64))


def late_sums(loader: DataLoader[torch.Tensor]) -> list[int]:
    """The sums of all batches, computed long after each was dropped by the loop."""
    sums = []
    for batch in loader:
        torch.cuda._sleep(LONG_CYCLES)
        sums.append(batch.sum(dtype=torch.int64))
        del batch
    return [int(one) for one in sums]


@pytest.mark.parametrize("has_own_stream", [False, True])
def test_a_batch_is_whole_when_the_callers_stream_reads_it_and_until_then(
    has_own_stream: bool,
) -> None:
    loader = wide_loader()
    expected = [
        sum(range(first, first + BATCH)) * ROW_BYTES // 4
        for first in range(0, NUM_BATCHES * BATCH, BATCH)
    ]
    stream = torch.cuda.Stream() if has_own_stream else torch.cuda.current_stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            assert late_sums(loader) == expected
    loader._iterator = None


def test_the_device_reads_blocks_that_come_again_without_a_copy_of_the_hosts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    num_staged = 0
    pinned = Cuda.pinned

    def counted(self: Cuda, batch: Any) -> Any:
        nonlocal num_staged
        num_staged += 1
        return pinned(self, batch)

    monkeypatch.setattr(Cuda, "pinned", counted)
    loader = wide_loader()
    for _ in range(3):
        assert [int(batch[0, 0]) for batch in loader] == list(range(0, NUM_BATCHES * BATCH, BATCH))
    iterator: Any = loader._iterator
    assert iterator._inbox._registration._addresses, "the driver refused to register the buffer"
    assert num_staged < 2 * NUM_BATCHES, "of three times as many"
    torch.ones(1, device="cuda").add_(1).item()  # no error was left behind
    del iterator
    loader._iterator = None


def test_the_overlap_of_copies_with_compute_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    loader = wide_loader()
    matrix = torch.randn(4096, 4096, device="cuda")

    def compute() -> None:
        for _ in range(4):
            matrix @ matrix

    def seconds(run: Callable[[], None]) -> float:
        torch.cuda.synchronize()
        begun = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - begun

    def only_copies() -> None:
        for batch in loader:
            batch.is_cuda  # noqa: B018

    def only_compute() -> None:
        for _ in range(NUM_BATCHES):
            compute()

    def both() -> None:
        for batch in loader:
            batch.is_cuda  # noqa: B018
            compute()

    for warm_up in (only_copies, both):
        seconds(warm_up)
    copies_s, compute_s, both_s = seconds(only_copies), seconds(only_compute), seconds(both)
    num_ahead = loader.statistics().num_batches_ahead
    hidden = (copies_s + compute_s - both_s) / min(copies_s, compute_s)
    with capsys.disabled():
        print(
            f"\n{NUM_BATCHES} batches of {BATCH * ROW_BYTES >> 20} MiB: loading and copying alone "
            f"{copies_s * 1e3:.0f} ms, compute alone {compute_s * 1e3:.0f} ms, together "
            f"{both_s * 1e3:.0f} ms; {hidden:.0%} of the shorter is hidden behind the longer, "
            f"{num_ahead} batches were copied ahead"
        )
    loader._iterator = None
