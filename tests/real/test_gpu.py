"""What needs a GPU; ``make gpu-check`` runs these where there is one."""

from __future__ import annotations

import pytest
import torch

from hatchway import DataLoader

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
