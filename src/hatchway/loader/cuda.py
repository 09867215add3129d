"""What the loader asks of CUDA: one small class, so that tests can stand in for it."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils.data import _utils

_PORTABLE = 1  # cudaHostRegisterPortable: pinned for every device


class Cuda:
    """One CUDA device, as torch sees it.

    Args:
        device: Without an index, the current one.

    Attributes:
        device: With its index.
    """

    def __init__(self, device: torch.device) -> None:
        index: int | None = device.index
        self.device = torch.device(
            device.type, torch.cuda.current_device() if index is None else index
        )

    def new_stream(self) -> Any:
        """A stream of the device."""
        return torch.cuda.Stream(self.device)

    def current_stream(self) -> Any:
        """The stream that the caller uses on the device."""
        return torch.cuda.current_stream(self.device)

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """A context in which work goes to ``stream``."""
        return torch.cuda.stream(stream)

    def new_event(self) -> Any:
        """An event to record and wait for."""
        return torch.cuda.Event()

    def lend(self, value: Any, stream: Any) -> None:
        """The memory of ``value`` is used again only after what ``stream`` was given to do."""
        value.record_stream(stream)

    def pinned(self, batch: Any) -> Any:
        """A copy in torch's pool of pinned memory, as ``pin_memory=True`` makes it."""
        return _utils.pin_memory.pin_memory(batch)

    def register(self, address: int, nbytes: int) -> bool:
        """Have the driver pin memory that is mapped already; False if it refuses."""
        runtime: Any = torch.cuda.cudart()
        with torch.cuda.device(self.device):
            result = runtime.cudaHostRegister(address, nbytes, _PORTABLE)
            if result == runtime.cudaError.success:
                return True
            # CUDA keeps the error and tells the next call: let that be ours.
            with contextlib.suppress(RuntimeError):
                torch.zeros(1, device=self.device)
        return False

    def unregister(self, address: int) -> None:
        """Undo :meth:`register`; nothing may be copied from there any more."""
        runtime: Any = torch.cuda.cudart()
        with torch.cuda.device(self.device):
            runtime.cudaHostUnregister(address)
