"""NumPy and what needs it, imported when first used: a server that only reads does without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hatchway.base.lazy import LazyModule

if TYPE_CHECKING:
    import numpy as np

    from hatchway.disk import entries
else:
    np = LazyModule("numpy")
    entries = LazyModule("hatchway.disk.entries")

__all__ = ["entries", "np"]
