"""Where in this process's memory something lies."""

from __future__ import annotations

import re
from pathlib import Path


def is_shared(address: int) -> bool:
    """Whether a loader's buffer holds what lies at ``address``."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in re.split(r"[- ]", line, maxsplit=2)[:2])
        if begin <= address < end:
            return "hatchway" in line and "rw-s" in line
    return False
