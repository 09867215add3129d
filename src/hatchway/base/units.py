"""Units as people read them."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d+)([kKMGTPE]?)(?:i?B)?", re.ASCII)


def format_bytes(nbytes: int) -> str:
    """A number of bytes for a person: ``1.5 GiB``, ``640 B``."""
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def parse_bytes(text: str) -> int:
    """A number of bytes as people write it: ``10G``, ``512 MiB``, ``4096``; units are of 1024.

    Raises:
        ValueError: If it is none.
    """
    found = _SIZE.fullmatch(text.replace(" ", ""))
    if found is None:
        raise ValueError(
            f"a size must be a whole number with K, M, G, T, P, E or none, not {text!r}"
        )
    number, unit = found.groups()
    return int(number) << 10 * " KMGTPE".index(unit.upper() or " ")
