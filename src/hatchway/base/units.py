"""Units as people read them."""

from __future__ import annotations


def format_bytes(nbytes: int) -> str:
    """A number of bytes for a person: ``1.5 GiB``, ``640 B``."""
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
