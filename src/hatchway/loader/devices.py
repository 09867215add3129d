"""What ``device=`` may be, and what a machine without such a device is told."""

from __future__ import annotations

from typing import Any

import torch

_ALLOWED = "a device as torch.device takes it ('cuda', 'cuda:1', 0, 'cpu', ...), or None"
# Types that need nothing; torch has no module for the second.
_ALWAYS_THERE = ("cpu", "meta")


def device_of(device: Any) -> torch.device:
    """The device that ``device=`` means; without an index it is the current one of its type.

    Raises:
        TypeError: If it is no string, int or device.
        ValueError: If torch knows no such device, or there is none here.
    """
    if isinstance(device, bool) or not isinstance(device, str | int | torch.device):
        raise TypeError(f"device must be {_ALLOWED}, not {device!r}")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be {_ALLOWED}, not {device!r}: {error}") from None
    if found.type in _ALWAYS_THERE:
        return found
    module = getattr(torch, found.type, None)
    if module is None or not module.is_available():
        raise ValueError(
            f"device={device!r} needs a device that torch cannot use here "
            f"(torch.{found.type}.is_available() is False); see `hatchway doctor`, or pass "
            "device='cpu', or None"
        )
    index: int | None = found.index
    count = module.device_count()
    if index is not None and index >= count:
        raise ValueError(
            f"device={device!r} does not exist: torch sees {count} of type {found.type}; "
            f"pass an index below {count}, or {found.type!r} for the current one"
        )
    return found
