"""Changing the size of a disk."""

from __future__ import annotations

import os

from hatchway.disk.chain import Chain
from hatchway.disk.upkeep.opening import Allowing


def resize(
    path: str | os.PathLike[str],
    size: int,
    *,
    shrink: bool = False,
    allow_backing: Allowing = False,
) -> int:
    """Make a disk shorter, or longer with zeros, as ``qemu-img resize``.

    A crash leaves it as long as it was, or as it is to be.

    Args:
        path: The active image.
        size: Bytes: a multiple of 512.
        shrink: Whether it may become shorter; what lies past its end is lost then.
        allow_backing: As in :class:`~hatchway.disk.Chain`.

    Returns:
        The size that it had.

    Raises:
        ValueError: If no disk of the file can have that size, or it would become shorter.
        ImageError: As in :meth:`~hatchway.disk.Chain.resize`.
    """
    with Chain(path, writable=True, allow_backing=allow_backing) as chain:
        before = chain.size
        if size < before and not shrink:
            raise ValueError(
                f"{os.fspath(path)} would become {before - size} bytes shorter, and lose what lies "
                "there; if that is meant, pass shrink=True (--shrink)"
            )
        chain.resize(size)
    return before
