"""The compiled kernels, or ``None`` where they are not built."""

from __future__ import annotations

import importlib
import os
from typing import Any, Final

ABI_VERSION = 5


class Turn:
    """How far the native twin of a turn on the board came; see native/loader/turns.hpp."""

    DONE: Final = 0
    HELD_BACK: Final = 1
    BUT_HOMES: Final = 1
    UNCOMMON: Final = 2


def _load() -> Any:
    if os.environ.get("HATCHWAY_PURE_PYTHON"):
        return None
    try:
        module = importlib.import_module("hatchway.loader._native")
    except ImportError:
        return None
    return module if module.abi_version() == ABI_VERSION else None


MODULE: Any = _load()
