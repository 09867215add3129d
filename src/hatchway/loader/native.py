"""The compiled kernels, or ``None`` where they are not built."""

from __future__ import annotations

import importlib
import os
from typing import Any

ABI_VERSION = 7


def _load() -> Any:
    if os.environ.get("HATCHWAY_PURE_PYTHON"):
        return None
    try:
        module = importlib.import_module("hatchway.loader._native")
    except ImportError:
        return None
    return module if module.abi_version() == ABI_VERSION else None


MODULE: Any = _load()
