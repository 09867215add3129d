"""Devices work on their own timeline, one step ahead of the host."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hatchway.cli.demo.device import PacedDevice
from hatchway.cli.demo.training import TrainingDevice, measure_step_s
from hatchway.cli.demo.unet import UNet3d, segmentation_loss

NOTHING = torch.zeros(0)


class FakeTime:
    """A clock that moves only when someone sleeps, and a little late each time."""

    def __init__(self, late_s: float = 0.0) -> None:
        self.now_s = 0.0
        self.late_s = late_s

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds + self.late_s

    def device(self, step_s: float) -> PacedDevice:
        return PacedDevice(step_s, clock=self.clock, sleep=self.sleep)


def test_a_step_returns_once_the_step_before_it_has_ended() -> None:
    time = FakeTime()
    device = time.device(2.0)
    device.step(NOTHING, NOTHING)
    assert time.now_s == 0.0
    device.step(NOTHING, NOTHING)
    assert time.now_s == 2.0
    assert device.finish() == [(0.0, 2.0), (2.0, 4.0)]
    assert time.now_s == 4.0


def test_a_late_wake_up_of_the_host_is_no_wait_of_the_device() -> None:
    time = FakeTime(late_s=0.25)
    device = time.device(2.0)
    for _ in range(3):
        device.step(NOTHING, NOTHING)
    assert device.finish() == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]


def test_a_late_batch_leaves_a_gap() -> None:
    time = FakeTime()
    device = time.device(2.0)
    device.step(NOTHING, NOTHING)
    time.sleep(5.0)
    device.step(NOTHING, NOTHING)
    assert device.finish() == [(0.0, 2.0), (5.0, 7.0)]


def test_the_stand_in_trains_nothing() -> None:
    assert FakeTime().device(1.0).losses == []


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 1, 8, 8, 8, generator=generator)
    return image, (image > 0.5).to(torch.uint8) + (image > 1.0).to(torch.uint8)


@pytest.mark.parametrize("widths", [(4,), (4, 8), (4, 8, 16)])
def test_the_network_gives_logits_of_each_class_at_every_voxel(widths: tuple[int, ...]) -> None:
    assert UNet3d(widths)(batch()[0]).shape == (2, 3, 8, 8, 8)


def test_every_weight_of_the_network_learns() -> None:
    network = UNet3d((4, 8, 16))
    image, label = batch()
    segmentation_loss(network(image), label).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_the_loss_is_near_zero_for_the_right_answer_and_large_for_a_wrong_one() -> None:
    _, label = batch()
    truth = nn.functional.one_hot(label.squeeze(1).long(), 3).movedim(-1, 1).float()
    assert segmentation_loss(50 * truth, label) < 1e-3
    assert segmentation_loss(-50 * truth, label) > 1


def test_training_lowers_the_loss() -> None:
    device = TrainingDevice("cpu", seed=0, widths=(4, 8))
    for _ in range(6):
        device.step(*batch())
    assert device.losses[-1] < device.losses[0]


def test_steps_of_a_real_device_follow_each_other() -> None:
    device = TrainingDevice("cpu", seed=0, widths=(4, 8))
    for _ in range(3):
        device.step(*batch())
    steps = device.finish()
    assert len(steps) == 3
    ends = [0.0, *(end for _, end in steps)]
    assert all(end <= start <= stop for end, (start, stop) in zip(ends, steps, strict=False))


def test_each_loader_trains_the_same_network() -> None:
    losses = []
    for _ in range(2):
        torch.rand(1)
        device = TrainingDevice("cpu", seed=3, widths=(4, 8))
        device.step(*batch())
        losses.append(device.losses)
    assert losses[0] == losses[1]


def test_the_step_is_measured_after_a_warm_up() -> None:
    device = TrainingDevice("cpu", seed=0, widths=(4,))
    assert measure_step_s(device, *batch(), repeats=2) > 0
    assert len(device.losses) == 4


@pytest.mark.gpu
def test_a_gpu_trains_and_its_steps_are_timed_there() -> None:
    device = TrainingDevice("cuda", seed=0)
    for _ in range(20):
        device.step(*batch())
    steps = device.finish()
    assert all(end > start for start, end in steps)
    assert device.losses[-1] < device.losses[0]
