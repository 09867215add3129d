"""Train the U-Net on a real device and note when each step ran there."""

from __future__ import annotations

import time
from typing import Protocol

import torch
from torch import Tensor

from hatchway.cli.demo.unet import UNet3d, segmentation_loss


class Mark(Protocol):
    """A point on the device's timeline, set behind the work queued so far."""

    def wait(self) -> None:
        """Block until the device has passed this point."""
        ...

    def reached_s(self) -> float:
        """When the device passed it, on ``time.monotonic``; only after ``wait``."""
        ...


class HostMark:
    """A mark of a device that works at once: the host's own clock."""

    def __init__(self) -> None:
        self._reached_s = time.monotonic()

    def wait(self) -> None:
        """Return: it was passed when it was set."""

    def reached_s(self) -> float:
        """When it was set."""
        return self._reached_s


class CudaClock:
    """Set marks as CUDA events and read them against one moment of the host's clock."""

    def __init__(self) -> None:
        torch.cuda.synchronize()
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()
        self.event.synchronize()
        self.read_s = time.monotonic()

    def mark(self) -> Mark:
        """Set a mark behind the work queued so far."""
        return _CudaMark(self)


class _CudaMark:
    def __init__(self, clock: CudaClock) -> None:
        self._clock = clock
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record()

    def wait(self) -> None:
        self._event.synchronize()

    def reached_s(self) -> float:
        since_ms: float = self._clock.event.elapsed_time(self._event)
        return self._clock.read_s + since_ms / 1e3


class TrainingDevice:
    """A device that trains a fresh U-Net, the same one for each loader.

    Args:
        device: torch's name of it, such as ``"cuda"``.
        seed: Seeds the weights.
        widths: Channels of each level of the network.
    """

    def __init__(
        self, device: str, *, seed: int, widths: tuple[int, ...] = (16, 32, 64, 128)
    ) -> None:
        self._device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self._network = UNet3d(widths).to(self._device)
        self._optimiser = torch.optim.Adam(self._network.parameters(), lr=2e-3)
        self._clock = CudaClock() if self._device.type == "cuda" else None
        self._steps: list[tuple[Mark, Mark]] = []
        self._losses: list[Tensor] = []

    def step(self, image: Tensor, label: Tensor) -> None:
        """Queue a training step; return once the step before it has ended."""
        start = self._mark()
        image = image.to(self._device, non_blocking=True)
        label = label.to(self._device, non_blocking=True)
        self._optimiser.zero_grad(set_to_none=True)
        loss = segmentation_loss(self._network(image), label)
        loss.backward()
        self._optimiser.step()
        self._losses.append(loss.detach())
        self._steps.append((start, self._mark()))
        if len(self._steps) > 1:
            self._steps[-2][1].wait()

    def finish(self) -> list[tuple[float, float]]:
        """Wait for the last step; return start and end of each, on ``time.monotonic``."""
        if self._steps:
            self._steps[-1][1].wait()
        steps: list[tuple[float, float]] = []
        for start, end in self._steps:
            # A step queued early starts when the one ahead ends; both marks are read to a
            # microsecond, so keep them from overlapping by rounding.
            ended_s = steps[-1][1] if steps else 0.0
            start_s = max(start.reached_s(), ended_s)
            steps.append((start_s, max(start_s, end.reached_s())))
        return steps

    @property
    def losses(self) -> list[float]:
        """The loss of each step so far."""
        return [float(loss) for loss in self._losses]

    def _mark(self) -> Mark:
        return self._clock.mark() if self._clock else HostMark()


def measure_step_s(device: TrainingDevice, image: Tensor, label: Tensor, *, repeats: int) -> float:
    """Return the median seconds of a step, after as many steps to warm up."""
    for _ in range(2 * repeats):
        device.step(image, label)
    lengths = sorted(end - start for start, end in device.finish()[repeats:])
    return lengths[len(lengths) // 2]
