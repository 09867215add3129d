"""Where the stored index of a chain lies."""

from __future__ import annotations

import os
from pathlib import Path

_SUFFIX = ".hatchway-index"


def sidecar_of(layer: Path) -> Path:
    """Where the index of the chain up to a layer lies, if there is one."""
    return layer.with_name(layer.name + _SUFFIX)


def has_sidecar(layer: Path) -> bool:
    """Whether something that can be read lies there."""
    # Asked for each layer of a long chain, of which few have one.
    return os.access(f"{layer}{_SUFFIX}", os.R_OK)
