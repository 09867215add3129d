"""Writing bytes: in place where a host cluster may be changed, else to new ones."""

from __future__ import annotations

from hatchway.disk.active.entry import Entry
from hatchway.disk.active.guest import GuestClusters


def write(guest: GuestClusters, offset: int, data: memoryview) -> None:
    """Write bytes to the guest's disk.

    Args:
        guest: Its clusters.
        offset: Where, in bytes.
        data: What; of bytes.

    Raises:
        ImageError: If not all could be written; some of it may have been then.
    """
    size = guest.cluster_size
    while data:
        guest.relieve()
        cluster, begin = divmod(offset, size)
        # One L2 table at a time.
        most = guest.tables.per_table - cluster % guest.tables.per_table
        most = min(most, -(-(begin + len(data)) // size))
        entry = guest.entry(cluster)
        run = _overwrite if guest.is_in_place(entry) else _write_anew
        num_bytes = run(guest, cluster, entry, begin, most, data)
        offset, data = offset + num_bytes, data[num_bytes:]


def _overwrite(
    guest: GuestClusters, cluster: int, entry: Entry, begin: int, most: int, data: memoryview
) -> int:
    """Write to host clusters that lie side by side and are there; how many bytes."""
    assert entry.host is not None
    size, unit = guest.cluster_size, guest.unit
    entries = [entry]
    while len(entries) < most:
        following = guest.entry(cluster + len(entries))
        if not guest.is_in_place(following) or following.host != entry.host + len(entries) * size:
            break
        entries.append(following)
    guest.check_in_place(entry, len(entries))
    end = min(begin + len(data), len(entries) * size)
    # Units that were not there before are written whole.
    start, stop = begin, end
    if not entry.data >> begin // unit & 1:
        start = begin - begin % unit
    last, last_end = len(entries) - 1, end - (len(entries) - 1) * size
    if not entries[-1].data >> (last_end - 1) // unit & 1:
        stop = -(-end // unit) * unit
    head = guest.content(cluster, entry, start, begin)
    tail = guest.content(cluster + last, entries[-1], last_end, stop - last * size)
    guest.files.write_data(_joined(head, data[: end - begin], tail), entry.host + start)
    changed = []
    for rank, old in enumerate(entries):
        units = guest.units(max(0, begin - rank * size), min(size, end - rank * size))
        changed.append(old._replace(data=old.data | units, zero=old.zero & ~units))
    if changed != entries:
        guest.tables.own(cluster // guest.tables.per_table)
        guest.put(cluster, changed)
        guest.say_changed(cluster, len(changed))
    return end - begin


def _write_anew(
    guest: GuestClusters, cluster: int, entry: Entry, begin: int, most: int, data: memoryview
) -> int:
    """Write to new host clusters that lie side by side; how many bytes."""
    size, unit = guest.cluster_size, guest.unit
    guest.tables.own(cluster // guest.tables.per_table)
    entries = [entry]
    while len(entries) < most:
        following = guest.entry(cluster + len(entries))
        if guest.is_in_place(following):
            break
        entries.append(following)
    for old in entries:
        guest.check_release(old)
    found = guest.allocate(cluster, len(entries))
    try:
        del entries[len(found) :]
        end = min(begin + len(data), len(entries) * size)
        last, last_end = len(entries) - 1, end - (len(entries) - 1) * size
        # What an old host cluster holds beside what is written goes along.
        start = min(begin - begin % unit, _first(_carried(guest, entry)) * unit)
        stop = max(-(-last_end // unit), _carried(guest, entries[-1]).bit_length()) * unit
        head = guest.content(cluster, entry, start, begin)
        tail = guest.content(cluster + last, entries[-1], last_end, stop)
        host = found.start * size
        guest.files.write_data(_joined(head, data[: end - begin], tail), host + start)
        changed = []
        for rank, old in enumerate(entries):
            units = guest.units(max(0, begin - rank * size), min(size, end - rank * size))
            units |= _carried(guest, old)
            changed.append(Entry(host + rank * size, True, units, old.zero & ~units))
        guest.put(cluster, changed)
    except BaseException:
        guest.give_back(found)
        raise
    for old in entries:
        guest.release(old)
    guest.say_changed(cluster, len(changed))
    return end - begin


def _carried(guest: GuestClusters, entry: Entry) -> int:
    """The units whose bytes lie in a host cluster that is given up."""
    return entry.data if entry.packed is None else guest.all_units


def _first(units: int) -> int:
    """The first of a set of units; past all of them if there is none."""
    return (units & -units).bit_length() - 1 if units else 64


def _joined(head: bytes, data: memoryview, tail: bytes) -> bytes | memoryview:
    return b"".join((head, data, tail)) if head or tail else data
