"""Keep the accelerator of an ML training host loaded.

``import hatchway`` is cheap: torch is imported when a name that needs it is
first used, never before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hatchway.base.lazy import lazy_names

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

__getattr__ = lazy_names(
    __name__, {name: "hatchway.loader" for name in __all__ if name != "__version__"}
)


def __dir__() -> list[str]:
    """List the public names, including those not imported yet."""
    return sorted(__all__)
