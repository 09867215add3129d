"""Copy bytes that another process reads next."""

from __future__ import annotations

from typing import Any

import numpy as np

from hatchway.loader import native


def _copy_bytes(target: Any, source: Any) -> None:
    """Copy ``source`` to the beginning of ``target``, both buffers of contiguous bytes."""
    # NumPy copies large runs faster than memoryview's item loop does.
    nbytes = memoryview(source).nbytes
    np.copyto(np.frombuffer(target, np.uint8, nbytes), np.frombuffer(source, np.uint8))


copy_bytes = _copy_bytes if native.MODULE is None else native.MODULE.copy
