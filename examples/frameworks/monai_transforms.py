"""MONAI: dictionary transforms; their own random states follow the sample's seed.

python examples/frameworks/monai_transforms.py
"""

from __future__ import annotations

from typing import Any

import torch
from monai.data import Dataset, list_data_collate
from monai.transforms import Compose, EnsureTyped, RandFlipd, RandGaussianNoised

import hatchway
from hatchway import DataLoader  # in place of monai.data.DataLoader


class SeededDataset(Dataset):
    """MONAI's transforms draw from generators of their own: seed them for each sample."""

    def _transform(self, index: int) -> Any:
        self.transform.set_random_state(hatchway.sample_seed() % 2**32)
        return super()._transform(index)


def epoch(num_workers: int) -> torch.Tensor:
    """The batches of one epoch, in the order of the dataset."""
    data = [{"image": torch.full((1, 12, 12, 12), float(number))} for number in range(8)]
    transform = Compose(
        [
            EnsureTyped(keys="image"),
            RandFlipd(keys="image", prob=0.5),
            RandGaussianNoised(keys="image", prob=0.9),
        ]
    )
    torch.manual_seed(0)
    loader = DataLoader(
        SeededDataset(data, transform),
        batch_size=2,
        num_workers=num_workers,
        collate_fn=list_data_collate,
    )
    return torch.cat([batch["image"] for batch in loader])


def main() -> None:
    """Two workers and none."""
    with_workers = epoch(2)
    assert with_workers.shape == (8, 1, 12, 12, 12)
    assert torch.equal(with_workers, epoch(0))
    print("8 images, with the same noise from 2 workers and from none")


if __name__ == "__main__":
    main()
