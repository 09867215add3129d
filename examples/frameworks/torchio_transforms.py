"""TorchIO: subjects and random transforms, the same for the same seed on any workers.

python examples/frameworks/torchio_transforms.py
"""

from __future__ import annotations

import torch
import torchio

from hatchway import DataLoader  # in place of torchio.SubjectsLoader


def epoch(num_workers: int) -> torch.Tensor:
    """The batches of one epoch, in the order of the dataset."""
    subjects = [
        torchio.Subject(
            scan=torchio.ScalarImage(tensor=torch.full((1, 12, 12, 12), float(number))),
            number=number,
        )
        for number in range(8)
    ]
    transform = torchio.Compose([torchio.RandomFlip(), torchio.RandomNoise(std=(0.1, 0.5))])
    torch.manual_seed(0)
    loader = DataLoader(
        torchio.SubjectsDataset(subjects, transform=transform),
        batch_size=2,
        num_workers=num_workers,
        collate_fn=torchio.SubjectsLoader._collate,
    )
    return torch.cat([batch["scan"][torchio.DATA] for batch in loader])


def main() -> None:
    """Two workers and none."""
    with_workers = epoch(2)
    assert with_workers.shape == (8, 1, 12, 12, 12)
    assert torch.equal(with_workers, epoch(0))
    print("8 subjects, with the same noise from 2 workers and from none")


if __name__ == "__main__":
    main()
