"""One file of a chain: what it says of each granule of the disk."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hatchway.disk.compressed import extent_of, unpack
from hatchway.disk.entries import (
    DATA,
    OFFSET_MASK,
    VALUE_MASK,
    EntryError,
    words_of,
    words_of_extended,
)
from hatchway.disk.errors import CorruptImageError, ImageError
from hatchway.disk.files import Descriptors, ImageFile
from hatchway.disk.header import (
    FIRST_BYTES,
    MAGIC,
    MAX_SNAPSHOTS,
    CutHeaderError,
    Header,
    check_table,
    parse_header,
)

_SNAPSHOT = struct.Struct(">QIHHIIQII")
_SECTOR = 512
# An L1 table that is longer is read piece by piece, as it is needed.
_KEPT_L1_BYTES = 4096


class Snapshot(NamedTuple):
    """An internal snapshot.

    Attributes:
        id: Unique in its file.
        name: What the user called it.
        l1_offset: Where its L1 table lies.
        l1_size: Entries of that.
        size: The disk's size then, in bytes.
        seconds: When it was made, since 1970.
    """

    id: str
    name: str
    l1_offset: int
    l1_size: int
    size: int
    seconds: int


class Image:
    """One file of a chain, qcow2 or raw, open for reading.

    Attributes:
        file: Where its tables lie.
        data: Where its clusters lie: the same, or the external data file.
        format: What it is.
        header: Of a qcow2 file; None of a raw one.
        size: The guest's disk, in bytes: a raw file's is rounded up to whole sectors.
        is_closed: Whether it can be read no longer.
    """

    def __init__(
        self, path: Path, descriptors: Descriptors, image_format: str | None = None
    ) -> None:
        self.file = ImageFile(path, descriptors)
        self.data = self.file
        self.header: Header | None = None
        self.is_closed = False
        self._l1: NDArray[np.uint64] | None = None
        try:
            start = self.file.read(FIRST_BYTES, 0)
            self.format: Literal["qcow2", "raw"] = _format_of(image_format, start, path)
            self.size = -(-self.file.file_bytes // _SECTOR) * _SECTOR
            if self.format == "qcow2":
                self.header = self._header_of(start)
                self.size = self.header.size
                self._l1_at = self.header.l1_offset, self.header.l1_size
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> Path:
        """Its file."""
        return self.file.path

    @property
    def granule_bytes(self) -> int | None:
        """What it allocates at a time; None of a raw file, which allocates nothing."""
        return None if self.header is None else self.header.granule_bytes

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
            starts += np.uint64(start) | DATA  # bits that no offset has
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
        return self._raw_entries(table, first, count) or b""

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
        if self.header is None or not self.header.num_snapshots:
            return []
        if self.header.num_snapshots > MAX_SNAPSHOTS:
            raise CorruptImageError(
                f"{self.path} is said to have {self.header.num_snapshots} snapshots; "
                f"{MAX_SNAPSHOTS} are possible",
                path=self.path,
                offset=60,
            )
        found, at = [], self.header.snapshots_offset
        for _ in range(self.header.num_snapshots):
            snapshot, num_bytes = self._snapshot_at(at)
            found.append(snapshot)
            at += num_bytes
        return found

    def show(self, snapshot: Snapshot) -> None:
        """Be what the file was at an internal snapshot, from now on.

        Raises:
            CorruptImageError: If the snapshot's table lies nowhere.
        """
        assert self.header is not None
        where = snapshot.l1_offset, snapshot.l1_size, snapshot.size
        check_table(self.header, self.path, self.file.file_bytes, *where)
        self._l1_at = snapshot.l1_offset, snapshot.l1_size
        self._l1 = None
        self.size = snapshot.size

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
        raw = self._raw_entries(table, first, count)
        if raw is None:
            return None
        entries = np.frombuffer(raw, ">u8").astype(np.uint64)
        has_data_file = header.has_data_file
        try:
            if header.has_subclusters:
                pairs = entries.reshape(-1, 2)
                return words_of_extended(
                    pairs, header.cluster_size, granule, has_data_file=has_data_file
                )
            return words_of(
                entries,
                header.cluster_size,
                granule,
                has_data_file=has_data_file,
                version=header.version,
            )
        except EntryError as error:
            per_table = header.cluster_size // header.l2_entry_bytes
            offset = self._l1_entry(table) + (first + error.rank) * header.l2_entry_bytes
            raise CorruptImageError(
                f"the L2 entry of {self.path} at {offset:#x}, of guest cluster "
                f"{table * per_table + first + error.rank}, {error}; run `qemu-img check "
                f"{self.path}`",
                path=self.path,
                offset=offset,
            ) from error

    def _raw_entries(self, table: int, first: int, count: int) -> bytes | None:
        """Entries ``[first, first + count)`` of an L2 table; None if there is no table."""
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
                offset=self._l1_at[0] + table * 8,
            )
        at = l2_offset + first * header.l2_entry_bytes
        raw = self.file.read(count * header.l2_entry_bytes, at)
        if len(raw) < count * header.l2_entry_bytes:
            raise CorruptImageError(
                f"entry {table} of the L1 table of {self.path} points to {l2_offset:#x}, past the "
                f"end of the file ({self.file.file_bytes} bytes); run `qemu-img check "
                f"{self.path}`",
                path=self.path,
                offset=self._l1_at[0] + table * 8,
            )
        return raw

    def _l1_entry(self, rank: int) -> int:
        offset, size = self._l1_at
        if rank >= size:
            return 0
        if self._l1 is None and size * 8 <= _KEPT_L1_BYTES:
            raw = self.file.read(size * 8, offset)
            self._l1 = np.frombuffer(raw, ">u8")
        if self._l1 is not None:
            return int(self._l1[rank]) & OFFSET_MASK
        raw = self.file.read(8, offset + rank * 8)
        return int.from_bytes(raw, "big") & OFFSET_MASK

    def _snapshot_at(self, at: int) -> tuple[Snapshot, int]:
        raw = self.file.read(_SNAPSHOT.size + 16, at)
        if len(raw) < _SNAPSHOT.size:
            raise CorruptImageError(
                f"the snapshot table of {self.path} ends at {at:#x}, with the file",
                path=self.path,
                offset=at,
            )
        l1_offset, l1_size, id_bytes, name_bytes, seconds, _, _, _, extra_bytes = (
            _SNAPSHOT.unpack_from(raw)
        )
        extra = raw[_SNAPSHOT.size : _SNAPSHOT.size + min(extra_bytes, 16)]
        size = int.from_bytes(extra[8:16], "big") if extra_bytes >= 16 else self.size
        names = self.file.read(id_bytes + name_bytes, at + _SNAPSHOT.size + extra_bytes)
        num_bytes = (_SNAPSHOT.size + extra_bytes + id_bytes + name_bytes + 7) & ~7
        texts = names[:id_bytes], names[id_bytes:]
        identifier, name = (text.decode("utf-8", "surrogateescape") for text in texts)
        return Snapshot(identifier, name, l1_offset, l1_size, size, seconds), num_bytes


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
