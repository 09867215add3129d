"""The compiled kernels, or ``None`` where they are not built."""

from __future__ import annotations

from typing import Any

from hatchway.base.native import load_kernels

ABI_VERSION = 7

MODULE: Any = load_kernels("loader", ABI_VERSION)
