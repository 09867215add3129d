"""The compiled kernels, or ``None`` where they are not built."""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any

ABI_VERSION = 7


def _load() -> Any:
    if os.environ.get("HATCHWAY_PURE_PYTHON"):
        return None
    try:
        module = importlib.import_module("hatchway.loader._native")
    except ImportError:
        return None
    if module.abi_version() == ABI_VERSION:
        return module
    warnings.warn(
        f"hatchway's compiled kernels have version {module.abi_version()}, not {ABI_VERSION}: it "
        "runs without them, which is slower; run `make setup`, or install it anew",
        stacklevel=2,
    )
    return None


MODULE: Any = _load()
