"""A small 3-D U-Net, after the one that MLPerf trains on KiTS19, and its loss."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

NUM_CLASSES = 3


class UNet3d(nn.Module):
    """Halve the volume at each level on the way down, double it on the way up.

    Args:
        widths: Channels of each level, the finest first.
        num_classes: Channels of the output.
    """

    def __init__(
        self, widths: tuple[int, ...] = (16, 32, 64, 128), num_classes: int = NUM_CLASSES
    ) -> None:
        super().__init__()
        self.first = _block(1, widths[0])
        self.down = nn.ModuleList(_block(a, b, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(b, a, kernel_size=2, stride=2) for a, b in pairwise(widths)
        )
        self.merge = nn.ModuleList(_block(2 * width, width) for width in widths[:-1])
        self.head = nn.Conv3d(widths[0], num_classes, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits ``(batch, classes, z, y, x)`` of an image ``(batch, 1, z, y, x)``.

        Each side of the image must be a multiple of ``2 ** (levels - 1)``.
        """
        features = [self.first(image)]
        for down in self.down:
            features.append(down(features[-1]))
        volume = features.pop()
        for up, merge in zip(reversed(self.up), reversed(self.merge), strict=True):
            volume = merge(torch.cat((up(volume), features.pop()), dim=1))
        logits: Tensor = self.head(volume)
        return logits


def segmentation_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return the mean of soft Dice and cross-entropy losses.

    Args:
        logits: ``(batch, classes, z, y, x)``.
        label: ``(batch, 1, z, y, x)``, integers below the number of classes.
    """
    classes = label.squeeze(1).long()
    cross_entropy = nn.functional.cross_entropy(logits, classes)
    truth = nn.functional.one_hot(classes, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    guess = logits.softmax(dim=1)
    overlap = (guess * truth).sum(dim=(2, 3, 4))
    sizes = (guess + truth).sum(dim=(2, 3, 4))
    dice = (2 * overlap + 1) / (sizes + 1)
    return (cross_entropy + 1 - dice.mean()) / 2


def _block(num_in: int, num_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(num_in, num_out, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.InstanceNorm3d(num_out, affine=True),
        nn.LeakyReLU(0.01),
        nn.Conv3d(num_out, num_out, kernel_size=3, padding=1, bias=False),
        nn.InstanceNorm3d(num_out, affine=True),
        nn.LeakyReLU(0.01),
    )
