"""Refcounts as they lie in refcount blocks: of 1 to 64 bits each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Of a refcount table: QEMU's own bound.
MAX_REFCOUNT_TABLE_BYTES = 8 << 20


def unpacked_counts(raw: bytes, bits: int) -> NDArray[np.uint64]:
    """The refcounts in a piece of a refcount block.

    Args:
        raw: The piece: whole refcounts.
        bits: Of each: a power of two from 1 to 64.
    """
    if bits >= 8:
        return np.frombuffer(raw, f">u{bits // 8}").astype(np.uint64)
    # The lowest bits of a byte are the first refcount in it.
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    spread = np.frombuffer(raw, np.uint8)[:, None] >> shifts
    counts: NDArray[np.uint64] = (spread & np.uint8((1 << bits) - 1)).ravel().astype(np.uint64)
    return counts


def packed_counts(counts: NDArray[np.uint64], bits: int) -> bytes:
    """What :func:`unpacked_counts` was given.

    Args:
        counts: Refcounts, none of more than ``bits`` bits; as many as fill whole bytes.
        bits: Of each: a power of two from 1 to 64.
    """
    if bits >= 8:
        return counts.astype(f">u{bits // 8}").tobytes()
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    spread = counts.astype(np.uint8).reshape(-1, 8 // bits) << shifts
    raw: bytes = np.bitwise_or.reduce(spread, axis=1, dtype=np.uint8).tobytes()
    return raw
