"""The guest's clusters, as the active file holds them now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hatchway.disk.active.allocation import Allocation
from hatchway.disk.active.entry import Entry, decoded, encoded
from hatchway.disk.active.known import DIRECTORY, KnownTables
from hatchway.disk.active.ordered import OrderedFiles
from hatchway.disk.active.pages import Pages, Table
from hatchway.disk.active.tables import GuestTables
from hatchway.disk.compressed import extent_of, unpack
from hatchway.disk.errors import CorruptImageError
from hatchway.disk.header import Header
from hatchway.disk.snapshots import Snapshot

_SUBCLUSTERS = 32
# Host clusters that wait to be used again; what says so takes about 100 bytes each.
_MOST_RELEASED = 16384
# Bytes of such that are used again before the file is made longer.
_WORTH_A_COMMIT = 16 << 20


class GuestClusters:
    """What each guest cluster is, what it holds, and the order in which changes are written.

    Args:
        header: Of the active file.
        files: Where it lies.
        read_below: Reads the disk below: guest offset and size to bytes.
        below_bytes: How long that disk is.
        cache_bytes: Bound of what is kept of the tables.
        changed: Called with the guest range whose entries changed.
        settle: Called before host clusters that were given up may be used again.
        doubted: Called when an L2 entry says that data is where a table lies.
        snapshots: The internal snapshots of the file.

    Attributes:
        header: As it is now.
        files: Where the file lies.
        known: Where tables of the file lie.
        pages: Of its tables.
        allocation: Of its host clusters.
        tables: Of the guest.
        cluster_size: Bytes of a cluster.
        unit: Bytes of a unit: a cluster, or a subcluster.
        all_units: The set of all units of a cluster.
        below_bytes: How long the disk below is.
    """

    def __init__(
        self,
        header: Header,
        files: OrderedFiles,
        read_below: Callable[[int, int], bytes],
        below_bytes: int,
        cache_bytes: int,
        changed: Callable[[int, int], None],
        settle: Callable[[], None],
        doubted: Callable[[], None],
        snapshots: Sequence[Snapshot],
    ) -> None:
        self.header, self.files = header, files
        self.cluster_size = header.cluster_size
        self.unit = header.granule_bytes
        self.all_units = (1 << (_SUBCLUSTERS if header.has_subclusters else 1)) - 1
        self.known = KnownTables(files.tables.path, header.cluster_size, doubted)
        self.known.keep(
            "snapshot table", [(header.snapshots_offset, sum(one.num_bytes for one in snapshots))]
        )
        l1_tables = [(one.l1_offset, one.l1_size * 8) for one in snapshots]
        self.known.keep("L1 table of a snapshot", l1_tables)
        if header.bitmaps is not None:
            _, num_bytes, offset = header.bitmaps
            self.known.keep(DIRECTORY, [(offset, num_bytes)])
        entry_words = 0 if header.has_data_file else header.l2_entry_bytes // 8
        self.pages = Pages(files, header.cluster_size, cache_bytes, self.known, entry_words)
        self.allocation = Allocation(header, files, self.pages, self.known)
        self.tables = GuestTables(header, files, self.pages, self.allocation, self.known)
        self.below_bytes = below_bytes
        self._read_below = read_below
        self._changed = changed
        self._settle = settle

    def units(self, start: int, end: int) -> int:
        """The set of the units of a cluster that ``[start, end)`` of it touches."""
        return (1 << -(-end // self.unit)) - (1 << start // self.unit)

    def entry(self, cluster: int) -> Entry:
        """What a guest cluster is.

        Raises:
            CorruptImageError: If its entry contradicts the format.
        """
        rank, first = divmod(cluster, self.tables.per_table)
        raw = self.tables.read(rank, first, 1)
        if raw is None:
            return Entry()
        words = int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big")
        try:
            return decoded(*words, self.header)
        except ValueError as error:
            path = self.files.tables.path
            offset = self.tables.table(rank)[0] + first * self.tables.entry_bytes
            raise CorruptImageError(
                f"the L2 entry of {path} at {offset:#x}, of guest cluster {cluster}, {error}; run "
                f"`qemu-img check {path}`",
                path=path,
                offset=offset,
            ) from error

    def is_in_place(self, entry: Entry) -> bool:
        """Whether a cluster has a host cluster that may be written to."""
        return entry.host is not None and (entry.is_own or self.header.has_data_file)

    def check_in_place(self, entry: Entry, num: int) -> None:
        """Check that ``num`` host clusters from that of an entry on are no tables.

        Raises:
            CorruptImageError: If one is.
        """
        if entry.host is not None and not self.header.has_data_file:
            first = entry.host // self.cluster_size
            self.known.check_clear(range(first, first + num), "an L2 entry says that data is")

    def put(self, cluster: int, entries: Sequence[Entry]) -> None:
        """Change what guest clusters are, of one L2 table, which is there and ours.

        Raises:
            ImageError: If the table cannot be read; then nothing is changed.
        """
        self.tables.change(cluster, b"".join(encoded(entry, self.header) for entry in entries))

    def say_changed(self, cluster: int, num: int) -> None:
        """Tell who listens that guest clusters are not what they were."""
        self._changed(cluster * self.cluster_size, (cluster + num) * self.cluster_size)

    def allocate(self, cluster: int, most: int) -> range:
        """Host clusters for guest clusters from ``cluster`` on: one to ``most`` of them."""
        if self.header.has_data_file:
            return range(cluster, cluster + most)
        if self.allocation.num_released * self.cluster_size >= _WORTH_A_COMMIT:
            self.commit()
        return self.allocation.allocate(most)

    def give_back(self, found: range) -> None:
        """Take back what :meth:`allocate` gave, and no table refers to."""
        if not self.header.has_data_file:
            self.allocation.give_back(found)

    def check_release(self, entry: Entry) -> None:
        """Check that what an entry refers to can be released.

        Raises:
            CorruptImageError: If its refcount is too low for that.
        """
        extent = self._extent(entry)
        if extent is not None:
            self.allocation.check_in_use(*extent)

    def release(self, entry: Entry) -> None:
        """Release what an entry refers to that is none any more."""
        extent = self._extent(entry)
        if extent is not None:
            self.allocation.release(*extent)

    def content(self, cluster: int, entry: Entry, start: int, end: int) -> bytes:
        """Bytes ``[start, end)`` of a guest cluster.

        Raises:
            ImageError: If they cannot be read.
        """
        if entry.packed is not None:
            offset, most = extent_of(entry.packed, self.header.cluster_bits)
            raw = self.files.tables.pread(most, offset)
            path = self.files.tables.path
            return unpack(raw, self.cluster_size, self.header.compression, path, offset)[start:end]
        pieces = []
        while start < end:
            bit, stop = 1 << start // self.unit, min(end, (start // self.unit + 1) * self.unit)
            if entry.data & bit:
                assert entry.host is not None
                found = self.files.data.pread(stop - start, entry.host + start)
            elif entry.zero & bit:
                found = b""
            else:
                found = self._below(cluster * self.cluster_size + start, stop - start)
            pieces.append(found.ljust(stop - start, b"\0"))
            start = stop
        return b"".join(pieces)

    def has_below(self, cluster: int) -> bool:
        """Whether holes of a guest cluster may read as something else than zeros."""
        return cluster * self.cluster_size < self.below_bytes

    def relieve(self) -> None:
        """Write the changes if there are many, so that memory is bounded."""
        self.files.check()
        if self.pages.is_full or self.allocation.num_released > _MOST_RELEASED:
            self.commit()

    def commit(self) -> None:
        """Write all changes, each after what it needs on the disk.

        Raises:
            ImageWriteError: If something cannot be written. What was not is kept.
        """
        # Data, copies, refcounts and new L2 tables, before what refers to them.
        self.allocation.refcounts.write()
        # A new L2 table was on the disk before, as what it replaces says: in which order its
        # entries and the L1 table's follow does not matter.
        self.pages.write(Table.L2)
        self.pages.write(Table.L1)
        self.files.barrier()
        # Now nothing on the disk refers to what was released, and soon nobody looks there.
        if self.allocation.num_released:
            self._settle()
        self.allocation.apply_releases()

    def finish(self) -> None:
        """As :meth:`commit`, and no cluster is leaked."""
        self.commit()
        self.allocation.refcounts.write()

    def _extent(self, entry: Entry) -> tuple[int, int] | None:
        """Where what an entry refers to lies in the file: host offset and bytes."""
        if entry.packed is not None:
            return extent_of(entry.packed, self.header.cluster_bits)
        if entry.host is None or self.header.has_data_file:
            return None
        return entry.host, self.cluster_size

    def _below(self, offset: int, size: int) -> bytes:
        end = min(offset + size, self.below_bytes)
        return self._read_below(offset, end - offset) if end > offset else b""
