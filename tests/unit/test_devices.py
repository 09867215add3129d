"""What ``device=`` may be, and what wrong ones are told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hatchway import DataLoader
from hatchway.loader.devices import device_of


class Module:
    """Stands for torch's module of a kind of device."""

    def __init__(self, count: int) -> None:
        self.device_count = lambda: count
        self.is_available = lambda: count > 0


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu"), "meta"])
def test_a_device_is_what_torch_takes_for_one(device: Any) -> None:
    assert device_of(device) == torch.device(device)
    assert DataLoader([1], device=device).device is device


@pytest.mark.parametrize("device", [True, 1.5, b"cpu", ["cpu"]], ids=repr)
def test_a_device_of_another_type_is_refused(device: Any) -> None:
    with pytest.raises(TypeError, match=r"device must be a device as torch.device takes it"):
        DataLoader([1], device=device)


@pytest.mark.parametrize("device", ["gpu", "", "cuda:x", -1])
def test_an_unknown_device_is_refused_when_the_loader_is_made(device: Any) -> None:
    with pytest.raises(ValueError, match=r"device must be .*\('cuda', 'cuda:1', 0") as caught:
        DataLoader([1], device=device)
    assert repr(device) in str(caught.value)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda")], ids=repr)
def test_a_device_that_is_not_here_is_refused_with_the_way_out(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "cuda", Module(0))
    with pytest.raises(ValueError, match=r"device='?cuda|device=device\(type='cuda'") as caught:
        DataLoader([1], device=device)
    assert "pass device='cpu', or None" in str(caught.value)


def test_a_device_that_torch_cannot_use_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="device='vulkan' needs a device"):
        DataLoader([1], device="vulkan")


def test_an_index_beyond_the_devices_is_refused_with_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "cuda", Module(2))
    assert device_of("cuda:1").index == 1
    with pytest.raises(ValueError, match="torch sees 2 of type cuda; pass an index below 2"):
        device_of("cuda:2")


def test_a_device_that_is_set_later_is_checked_when_the_pass_begins() -> None:
    for num_workers in (0, 1):
        loader = DataLoader([1], num_workers=num_workers)
        loader.device = "gpu"
        with pytest.raises(ValueError, match="not 'gpu'"):
            iter(loader)
