"""One file of a chain: what it says of each granule of the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hatchway.disk.arrays import entries, np
from hatchway.disk.compressed import extent_of, unpack
from hatchway.disk.errors import CorruptImageError, ImageError, UnsupportedImageError
from hatchway.disk.fields import MAGIC
from hatchway.disk.files import Descriptors, ImageFile
from hatchway.disk.header import (
    FIRST_BYTES,
    CutHeaderError,
    Header,
    check_table,
    parse_header,
)
from hatchway.disk.layout import Known, Layout, layout_of
from hatchway.disk.snapshots import Snapshot, read_snapshots
from hatchway.disk.words import KIND_SHIFT, OFFSET_MASK, VALUE_MASK

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SECTOR = 512
# A host offset has 62 bits of a word.
_MOST_RAW_BYTES = 1 << KIND_SHIFT
# An L1 table that is longer is read piece by piece, as it is needed.
_KEPT_L1_BYTES = 4096


class Image:
    """One file of a chain, qcow2 or raw, open for reading.

    Attributes:
        file: Where its tables lie.
        data: Where its clusters lie: the same, or the external data file.
        format: What it is.
        size: The guest's disk, in bytes: a raw file's is rounded up to whole sectors.
        is_closed: Whether it can be read no longer.
        layout: How its tables are read, if it is a qcow2 file.
    """

    __slots__ = (
        "_entries",
        "_header",
        "_l1",
        "data",
        "file",
        "format",
        "is_closed",
        "layout",
        "size",
    )

    def __init__(
        self, path: Path, descriptors: Descriptors, image_format: str | None = None
    ) -> None:
        self._begin(ImageFile(path, descriptors))
        try:
            start = self.file.read(FIRST_BYTES, 0)
            self.format: Literal["qcow2", "raw"] = _format_of(image_format, start, path)
            self.size = -(-self.file.file_bytes // _SECTOR) * _SECTOR
            if self.format == "qcow2":
                self.become(self._header_of(start))
            elif self.size > _MOST_RAW_BYTES:
                raise UnsupportedImageError(
                    f"{path} is a raw file of {self.file.file_bytes} bytes; up to "
                    f"{_MOST_RAW_BYTES} can be read; `truncate` a sparse file, or copy a part",
                    path=path,
                )
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, file: ImageFile, known: Known) -> Image:
        """A file that is open already, of which enough is known to read it."""
        image = cls.__new__(cls)
        image._begin(file)
        image.format, image.size, image.layout = known
        return image

    def _begin(self, file: ImageFile) -> None:
        self.file = self.data = file
        self.is_closed = False
        self.layout: Layout | None = None
        self._header: Header | None = None
        self._l1: NDArray[np.uint64] | None = None
        self._entries: Callable[[int, int, int], bytes | None] | None = None

    @property
    def header(self) -> Header | None:
        """Of a qcow2 file; None of a raw one.

        Raises:
            ImageError: If it is read only now, and cannot be.
        """
        if self._header is None and self.format == "qcow2":
            self._header = self._header_of(self.file.read(FIRST_BYTES, 0))
        return self._header

    @property
    def l1_at(self) -> tuple[int, int]:
        """Where the L1 table of a qcow2 file lies, and its entries."""
        return (0, 0) if self.layout is None else (self.layout.l1_offset, self.layout.l1_size)

    @property
    def path(self) -> Path:
        """Its file."""
        return self.file.path

    @property
    def granule_bytes(self) -> int | None:
        """What it allocates at a time; None of a raw file, which allocates nothing."""
        if self.layout is None:
            return None
        cluster_bytes = 1 << self.layout.cluster_bits
        return cluster_bytes // 32 if self.layout.has_subclusters else cluster_bytes

    def words(self, start: int, count: int, granule: int) -> NDArray[np.uint64] | None:
        """What it says of ``count`` granules from guest offset ``start`` on.

        Args:
            start: A multiple of ``count * granule``, which is a power of two.
            count: How many.
            granule: Bytes of a granule; divides its own.

        Returns:
            A word a granule; None where all are holes.

        Raises:
            CorruptImageError: If its tables contradict the format.
        """
        if self.header is None:
            starts: NDArray[np.uint64] = np.arange(count, dtype=np.uint64) * np.uint64(granule)
            starts += np.uint64(start) | entries.DATA  # bits that no offset has
            return starts
        header, num_bytes = self.header, count * granule
        cluster = header.cluster_size
        per_table = cluster // header.l2_entry_bytes
        found: NDArray[np.uint64] | None = None
        first = start // cluster
        last = (start + num_bytes - 1) // cluster
        for rank in range(first // per_table, last // per_table + 1):
            begin = max(first, rank * per_table)
            end = min(last + 1, (rank + 1) * per_table)
            part = self._words_of_clusters(rank, begin - rank * per_table, end - begin, granule)
            if part is None:
                continue
            at = begin * cluster - start
            if at < 0 or len(part) * granule > num_bytes:  # the region lies within a cluster
                return part[-at // granule :][:count]
            if found is None:
                found = np.zeros(count, np.uint64)
            found[at // granule : at // granule + len(part)] = part
        return found

    def plain_entries(self, start: int, count: int, granule: int) -> bytes | None:
        """The L2 entries of ``count`` granules as they lie in the file: big-endian, 8 bytes each.

        Args:
            start: As in :meth:`words`.
            count: As in :meth:`words`.
            granule: As in :meth:`words`.

        Returns:
            Nothing where all are holes. None where :meth:`words` is to be asked: they are no
            entries of 8 bytes of one table, one a granule, in a file that holds its own clusters.
        """
        header = self.header
        if (
            header is None
            or header.cluster_size != granule
            or header.has_subclusters
            or header.has_data_file
            or header.version < 3
            or granule // 8 < count
        ):
            return None
        table, first = divmod(start // granule, granule // 8)
        return self.l2_entries(table, first, count) or b""

    def l2_tables(self) -> Iterator[int]:
        """The numbers of the L2 tables that there are, of the disk from its beginning on."""
        if self.header is None:
            return
        offset, size = self.l1_at
        covered = self.header.cluster_size**2 // self.header.l2_entry_bytes
        size = min(size, -(-self.size // covered))
        for first in range(0, size, _KEPT_L1_BYTES // 8):
            count = min(size - first, _KEPT_L1_BYTES // 8)
            raw = self.file.read(count * 8, offset + first * 8)
            tables = np.frombuffer(raw[: len(raw) & ~7], ">u8") & np.uint64(OFFSET_MASK)
            yield from (int(rank) + first for rank in np.flatnonzero(tables))

    def l2_entries(self, table: int, first: int, count: int) -> bytes | None:
        """Entries ``[first, first + count)`` of an L2 table, as they lie in the file.

        Returns:
            Those, big-endian; None if there is no table.

        Raises:
            CorruptImageError: If the table lies nowhere.
        """
        if self._entries is not None:
            return self._entries(table, first, count)
        assert self.header is not None
        header = self.header
        l2_offset = self._l1_entry(table)
        if not l2_offset:
            return None
        if l2_offset % header.cluster_size:
            raise CorruptImageError(
                f"entry {table} of the L1 table of {self.path} points to {l2_offset:#x}, which is "
                "not the beginning of a cluster",
                path=self.path,
                offset=self.l1_at[0] + table * 8,
            )
        at = l2_offset + first * header.l2_entry_bytes
        raw = self.file.read(count * header.l2_entry_bytes, at)
        if len(raw) < count * header.l2_entry_bytes:
            raise CorruptImageError(
                f"entry {table} of the L1 table of {self.path} points to {l2_offset:#x}, past the "
                f"end of the file ({self.file.file_bytes} bytes); run `qemu-img check "
                f"{self.path}`",
                path=self.path,
                offset=self.l1_at[0] + table * 8,
            )
        return raw

    def unpacked(self, word: int) -> bytes:
        """The compressed cluster of a word, unpacked."""
        assert self.header is not None
        offset, most = extent_of(word & VALUE_MASK, self.header.cluster_bits)
        packed = self.file.read(most, offset)
        cluster_size = self.header.cluster_size
        return unpack(packed, cluster_size, self.header.compression, self.path, offset)

    def snapshots(self) -> list[Snapshot]:
        """The internal snapshots, in the order of the file.

        Raises:
            CorruptImageError: If their table contradicts the format.
        """
        return [] if self.header is None else read_snapshots(self.file, self.header)

    def show(self, snapshot: Snapshot) -> None:
        """Be what the file was at an internal snapshot, from now on.

        Raises:
            CorruptImageError: If the snapshot's table lies nowhere.
        """
        assert self.header is not None
        assert self.layout is not None
        l1_offset, l1_size = snapshot.l1_offset, snapshot.l1_size
        check_table(self.header, self.path, self.file.file_bytes, l1_offset, l1_size, snapshot.size)
        self.layout = self.layout._replace(l1_offset=l1_offset, l1_size=l1_size)
        self._l1 = None
        self.size = snapshot.size

    def take_entries_from(self, entries: Callable[[int, int, int], bytes | None] | None) -> None:
        """Have the entries of its L2 tables from who writes to it, from now on.

        Args:
            entries: Gives entries ``[first, first + count)`` of an L2 table, as bytes of the
                file; None if there is no such table. Its arguments are the table's number,
                ``first`` and ``count``. None for the file itself again.
        """
        self._entries = entries

    def become(self, header: Header) -> None:
        """Be what a header says that was changed in the file."""
        self._header = header
        self.size = header.size
        self.layout = layout_of(header)
        self._l1 = None

    def forget_header(self) -> None:
        """Keep of it and of the path only what reading needs, until they are asked for."""
        self._header = None
        self.file.forget_path()

    def close(self) -> None:
        """Close its files."""
        self.is_closed = True
        self.file.close()
        if self.data is not self.file:
            self.data.close()

    def _header_of(self, start: bytes) -> Header:
        try:
            return parse_header(start, self.path, self.file.file_bytes)
        except CutHeaderError:
            first_cluster = self.file.read(1 << 21, 0)
            return parse_header(first_cluster, self.path, self.file.file_bytes)

    def _words_of_clusters(
        self, table: int, first: int, count: int, granule: int
    ) -> NDArray[np.uint64] | None:
        """Of clusters ``[first, first + count)`` of an L2 table; None if there is no table."""
        assert self.header is not None
        header = self.header
        raw = self.l2_entries(table, first, count)
        if raw is None:
            return None
        found = np.frombuffer(raw, ">u8").astype(np.uint64)
        has_data_file = header.has_data_file
        try:
            if header.has_subclusters:
                pairs = found.reshape(-1, 2)
                return entries.words_of_extended(
                    pairs, header.cluster_size, granule, has_data_file=has_data_file
                )
            return entries.words_of(
                found,
                header.cluster_size,
                granule,
                has_data_file=has_data_file,
                version=header.version,
            )
        except entries.EntryError as error:
            per_table = header.cluster_size // header.l2_entry_bytes
            offset = self._l1_entry(table) + (first + error.rank) * header.l2_entry_bytes
            raise CorruptImageError(
                f"the L2 entry of {self.path} at {offset:#x}, of guest cluster "
                f"{table * per_table + first + error.rank}, {error}; run `qemu-img check "
                f"{self.path}`",
                path=self.path,
                offset=offset,
            ) from error

    def _l1_entry(self, rank: int) -> int:
        offset, size = self.l1_at
        if rank >= size:
            return 0
        if self._l1 is None and size * 8 <= _KEPT_L1_BYTES:
            raw = self.file.read(size * 8, offset)
            self._l1 = np.frombuffer(raw, ">u8")
        if self._l1 is not None:
            return int(self._l1[rank]) & OFFSET_MASK
        raw = self.file.read(8, offset + rank * 8)
        return int.from_bytes(raw, "big") & OFFSET_MASK


def _format_of(said: str | None, start: bytes, path: Path) -> Literal["qcow2", "raw"]:
    if said is None:
        return "qcow2" if start.startswith(MAGIC) else "raw"
    if said == "qcow2":
        return "qcow2"
    if said in ("raw", "file", "host_device"):
        return "raw"
    raise ImageError(
        f"{path} is said to be of format {said!r}; qcow2 and raw can be read", path=path
    )
