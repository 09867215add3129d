"""Making parts of the guest's disk read as zeros, with as few bytes written as may be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from hatchway.disk.active.entry import Entry, encoded
from hatchway.disk.active.guest import GuestClusters
from hatchway.disk.active.writing import write

_MOST_AT_ONCE = 512


def write_zeroes(
    guest: GuestClusters, start: int, end: int, *, may_unmap: bool, keeps_holes: bool = False
) -> None:
    """Make a range of the guest's disk read as zeros.

    As by QEMU, the file says so of all of it, whatever lies below: also of a whole unit of which
    the rest reads as zeros. A format that has no zero clusters keeps holes that nothing lies below.

    Args:
        guest: Its clusters.
        start: Where it begins, in bytes.
        end: Where it ends. What lies past the end of the disk goes with what lies before.
        may_unmap: Whether host clusters may be released.
        keeps_holes: Whether holes that nothing lies below stay holes, as in a discard.

    Raises:
        ImageError: If something could not be written.
    """
    size, per_table = guest.cluster_size, guest.tables.per_table
    has_zeros = _has_zero_units(guest)
    keeps_holes = keeps_holes or not has_zeros
    while start < end:
        guest.relieve()
        cluster, begin = divmod(start, size)
        rank, first = divmod(cluster, per_table)
        if not guest.tables.table(rank)[0]:
            stop = (rank + 1) * per_table * size
            is_kept = _is_kept(guest, cluster, keeps_holes)
            if is_kept or (has_zeros and end >= stop == start + per_table * size):
                if not is_kept:
                    guest.tables.own(rank, encoded(Entry(zero=guest.all_units), guest.header))
                    guest.say_changed(cluster, per_table)
                start = stop
                continue
        # As far as a page of the table goes, at most.
        num = min((end - start) // size, _MOST_AT_ONCE - first % _MOST_AT_ONCE, per_table - first)
        if not begin and num > 1 and _are_zeros(guest, cluster, num, keeps_holes):
            start += num * size
            continue
        stop = min(end, start - begin + size)
        _zero_within(guest, cluster, begin, stop - cluster * size, may_unmap, keeps_holes)
        start = stop


def discard(guest: GuestClusters, start: int, end: int) -> None:
    """Release the clusters of a range, which read as zeros from then on.

    As QEMU does it: of parts of clusters, and of version 2 above a backing file, which has no
    zero clusters to hide that, nothing is released; they stay as they are.

    Raises:
        ImageError: As in :func:`write_zeroes`.
    """
    size = guest.cluster_size
    start = -(-start // size) * size
    if end < guest.header.size:
        end -= end % size
    if guest.header.version < 3 and guest.below_bytes:
        return
    write_zeroes(guest, start, end, may_unmap=True, keeps_holes=True)


def _zero_within(
    guest: GuestClusters, cluster: int, begin: int, end: int, may_unmap: bool, keeps_holes: bool
) -> None:
    """Make bytes ``[begin, end)`` of a guest cluster read as zeros."""
    unit = guest.unit
    whole_begin, whole_end = -(-begin // unit) * unit, end // unit * unit
    if cluster * guest.cluster_size + end >= guest.header.size:
        whole_end = -(-end // unit) * unit
    inner = [at for at in (whole_begin, whole_end) if begin < at < end]
    for start, stop in pairwise([begin, *inner, end]):
        if whole_begin <= start < whole_end or _is_zero_beside(guest, cluster, start, stop):
            first, last = start - start % unit, -(-stop // unit) * unit
            _zero_units(guest, cluster, first, last, may_unmap, keeps_holes)
        else:
            _write_zeros(guest, cluster, start, stop)


def _is_zero_beside(guest: GuestClusters, cluster: int, begin: int, end: int) -> bool:
    """Whether a unit, of which ``[begin, end)`` is to be zeros, has no data and else is zeros."""
    old, units = guest.entry(cluster), guest.units(begin, end)
    if old.packed is not None or old.data & units:
        return False
    start, stop = begin - begin % guest.unit, -(-end // guest.unit) * guest.unit
    stop = min(stop, guest.header.size - cluster * guest.cluster_size)
    head = guest.content(cluster, old, start, begin)
    return not (head + guest.content(cluster, old, end, stop)).strip(b"\0")


def _zero_units(
    guest: GuestClusters, cluster: int, begin: int, end: int, may_unmap: bool, keeps_holes: bool
) -> None:
    old, units = guest.entry(cluster), guest.units(begin, end)
    is_whole = units == guest.all_units
    is_said = not units & ~old.zero or _is_kept(guest, cluster, keeps_holes)
    is_done = is_said and not _reads_otherwise(guest, cluster, old, units)
    if is_done and (old.host is None or not is_whole):
        return
    if _has_zero_units(guest):
        if not is_whole:
            new = old._replace(data=old.data & ~units, zero=old.zero | units)
        elif old.host is None or may_unmap:
            new = Entry(zero=units)
        else:
            new = old._replace(data=0, zero=units)
        is_possible = is_whole or old.packed is None
    else:
        new = Entry()
        is_possible = may_unmap and not _is_raw(guest) and not guest.has_below(cluster)
    if not is_possible:
        _write_zeros(guest, cluster, begin, end)
    elif new != old:
        is_released = old.packed is not None or new.host is None
        if is_released:
            guest.check_release(old)
        guest.tables.own(cluster // guest.tables.per_table)
        guest.put(cluster, [new])
        if is_released:
            guest.release(old)
        guest.say_changed(cluster, 1)


def _write_zeros(guest: GuestClusters, cluster: int, begin: int, end: int) -> None:
    """Write zeros to a part of a cluster, where it does not read as zeros already."""
    end = min(end, max(guest.header.size - cluster * guest.cluster_size, begin))
    while begin < end:
        stop = min(end, (begin // guest.unit + 1) * guest.unit)
        if _reads_otherwise(guest, cluster, guest.entry(cluster), guest.units(begin, stop)):
            zeros = memoryview(bytes(stop - begin))
            write(guest, cluster * guest.cluster_size + begin, zeros)
        begin = stop


def _reads_otherwise(guest: GuestClusters, cluster: int, entry: Entry, units: int) -> bool:
    """Whether units may hold something else than zeros."""
    if entry.packed is not None or entry.data & units:
        return True
    return guest.has_below(cluster) and bool(units & ~entry.zero)


def _has_zero_units(guest: GuestClusters) -> bool:
    """Whether zeros need no bytes: not in version 2, nor where the data file holds all bytes."""
    return guest.header.version >= 3 and not _is_raw(guest)


def _is_raw(guest: GuestClusters) -> bool:
    return guest.header.has_raw_data_file


def _is_kept(guest: GuestClusters, cluster: int, keeps_holes: bool) -> bool:
    """Whether holes of a guest cluster stay holes."""
    return keeps_holes and not guest.has_below(cluster)


def _are_zeros(guest: GuestClusters, cluster: int, num: int, keeps_holes: bool) -> bool:
    """Whether guest clusters of one table are holes or zeros, and all say so now that is due."""
    rank, first = divmod(cluster, guest.tables.per_table)
    raw = guest.tables.read(rank, first, num)
    if raw is not None and (np.frombuffer(raw, ">u8").reshape(num, -1)[:, 0] > 1).any():
        return False
    if _is_kept(guest, cluster, keeps_holes):
        return True
    if not _has_zero_units(guest):
        return False
    zeros = encoded(Entry(zero=guest.all_units), guest.header) * num
    if raw != zeros:
        guest.tables.own(rank)
        guest.tables.change(cluster, zeros)
        guest.say_changed(cluster, num)
    return True
