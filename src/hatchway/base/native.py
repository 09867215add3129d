"""Loading the compiled kernels of a part."""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any


def load_kernels(part: str, abi_version: int) -> Any:
    """The compiled module of a part, or None where it is not built.

    Args:
        part: The part, such as ``"loader"``.
        abi_version: The version that the part's Python code was written for.
    """
    if os.environ.get("HATCHWAY_PURE_PYTHON"):
        return None
    try:
        module = importlib.import_module(f"hatchway.{part}._native")
    except ImportError:
        return None
    if module.abi_version() == abi_version:
        return module
    warnings.warn(
        f"hatchway's compiled kernels have version {module.abi_version()}, not {abi_version}: it "
        "runs without them, which is slower; run `make setup`, or install it anew",
        stacklevel=2,
    )
    return None
