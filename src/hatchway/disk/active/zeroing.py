"""Making parts of the guest's disk read as zeros, with as few bytes written as may be."""

from __future__ import annotations

from hatchway.disk.active.entry import Entry, encoded
from hatchway.disk.active.guest import GuestClusters
from hatchway.disk.active.writing import write

_MOST_AT_ONCE = 512


def write_zeroes(guest: GuestClusters, start: int, end: int, *, may_unmap: bool) -> None:
    """Make a range of the guest's disk read as zeros.

    Args:
        guest: Its clusters.
        start: Where it begins, in bytes.
        end: Where it ends. What lies past the end of the disk goes with what lies before.
        may_unmap: Whether host clusters may be released.

    Raises:
        ImageError: If something could not be written.
    """
    size, per_table = guest.cluster_size, guest.tables.per_table
    while start < end:
        guest.relieve()
        cluster, begin = divmod(start, size)
        rank, first = divmod(cluster, per_table)
        if not guest.has_below(cluster) and not guest.tables.table(rank)[0]:
            start = (rank + 1) * per_table * size  # it reads as zeros already
            continue
        # As far as a page of the table goes, at most.
        num = min((end - start) // size, _MOST_AT_ONCE - first % _MOST_AT_ONCE, per_table - first)
        if not begin and num > 1 and _are_zeros(guest, cluster, num):
            start += num * size
            continue
        stop = min(end, start - begin + size)
        _zero_within(guest, cluster, begin, stop - cluster * size, may_unmap)
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
    write_zeroes(guest, start, end, may_unmap=True)


def _zero_within(guest: GuestClusters, cluster: int, begin: int, end: int, may_unmap: bool) -> None:
    """Make bytes ``[begin, end)`` of a guest cluster read as zeros."""
    unit = guest.unit
    whole_begin, whole_end = -(-begin // unit) * unit, end // unit * unit
    if cluster * guest.cluster_size + end >= guest.header.size:
        whole_end = -(-end // unit) * unit
    if whole_begin >= whole_end:
        middle = min(whole_begin, end)
        _write_zeros(guest, cluster, begin, middle)
        _write_zeros(guest, cluster, middle, end)
        return
    _write_zeros(guest, cluster, begin, whole_begin)
    _zero_units(guest, cluster, whole_begin, whole_end, may_unmap)
    _write_zeros(guest, cluster, whole_end, end)


def _zero_units(guest: GuestClusters, cluster: int, begin: int, end: int, may_unmap: bool) -> None:
    old, units = guest.entry(cluster), guest.units(begin, end)
    is_whole = units == guest.all_units
    if not _reads_otherwise(guest, cluster, old, units) and (old.host is None or not is_whole):
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


def _are_zeros(guest: GuestClusters, cluster: int, num: int) -> bool:
    """Whether guest clusters of one table read as zeros; holes that may be hidden do then."""
    rank, first = divmod(cluster, guest.tables.per_table)
    raw = guest.tables.read(rank, first, num)
    zeros = encoded(Entry(zero=guest.all_units), guest.header) * num
    if raw is not None and any(raw):
        return raw == zeros
    if guest.has_below(cluster):
        if not _has_zero_units(guest):
            return False
        guest.tables.own(rank)
        guest.tables.change(cluster, zeros)
        guest.say_changed(cluster, num)
    return True
