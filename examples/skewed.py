"""Stock torch and Hatchway on a dataset in which every fifth sample is slow."""

from __future__ import annotations

import time
import warnings

import torch

from hatchway import DataLoader

STEP_S = 0.024


class Scans(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """240 small volumes; every fifth takes twenty times as long, by waiting."""

    def __len__(self) -> int:
        return 240

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        time.sleep(0.1 if i % 5 == 0 else 0.005)
        return torch.rand(1, 16, 16, 16), i


def waits_of(loader: torch.utils.data.DataLoader[tuple[torch.Tensor, int]]) -> list[float]:
    """Seconds that each batch of one epoch was waited for."""
    waits: list[float] = []
    asked = time.monotonic()
    for _ in loader:
        waits.append(time.monotonic() - asked)
        time.sleep(STEP_S)  # the training step
        asked = time.monotonic()
    return waits


def main() -> None:
    """Print what each loader waited, and Hatchway's statistics."""
    # Workers that wait for a store or a network may outnumber the cores.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    for name, kind in (("torch", torch.utils.data.DataLoader), ("hatchway", DataLoader)):
        torch.manual_seed(0)
        loader = kind(Scans(), batch_size=8, shuffle=True, num_workers=8)
        waits = waits_of(loader)
        total_s = sum(waits) + STEP_S * len(waits)
        print(
            f"{name:8s} waited {sum(waits):.2f} of {total_s:.2f} s, "
            f"longest after the first batch {max(waits[1:]):.2f} s"
        )
        if isinstance(loader, DataLoader):
            s = loader.statistics()
            print(
                f"{s.num_displaced} of {s.num_samples} samples came late, "
                f"{s.max_displacement} positions at most"
            )


if __name__ == "__main__":
    main()
