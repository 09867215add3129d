"""Keep the accelerator of an ML training host loaded.

``import hatchway`` is cheap: torch is imported when a name that needs it is
first used, never before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hatchway.loader import (
        DataLoader,
        Deferred,
        DeferredDataset,
        LoaderStatistics,
        sample_seed,
    )

__all__ = [
    "DataLoader",
    "Deferred",
    "DeferredDataset",
    "LoaderStatistics",
    "__version__",
    "sample_seed",
]

__version__ = "0.1.0.dev0"

_LAZY = {name: "hatchway.loader" for name in __all__ if name != "__version__"}


def __getattr__(name: str) -> object:
    """Import a public name from its part on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, including those not imported yet."""
    return sorted(__all__)
