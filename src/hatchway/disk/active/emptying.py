"""Giving up all that the active file holds."""

from __future__ import annotations

import numpy as np

from hatchway.disk.active.guest import GuestClusters
from hatchway.disk.active.resizing import drop_table


def empty(guest: GuestClusters) -> None:
    """Have every guest cluster be a hole, on the disk, and the file no longer than it must be.

    Args:
        guest: The clusters of the file.

    Raises:
        ImageError: If something could not be read or written; some clusters are holes then.
    """
    for rank in range(guest.tables.l1_size):
        guest.relieve()
        if guest.tables.table(rank)[0]:
            drop_table(guest, rank)
    guest.finish()
    guest.files.barrier()
    guest.files.cut_tables(_num_used(guest) * guest.cluster_size)


def _num_used(guest: GuestClusters) -> int:
    """Up to which host cluster there is one in use."""
    num_clusters = -(-guest.files.tables.file_bytes // guest.cluster_size)
    at = used = 0
    while at < num_clusters:
        counts = guest.allocation.refcounts.window(at)
        there = np.flatnonzero(counts)
        if len(there):
            used = at + int(there[-1]) + 1
        at += len(counts)
    return used
