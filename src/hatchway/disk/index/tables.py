"""The L2 entries of one layer, taken piece by piece: digested, and painted over those below."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hatchway.disk import kernel
from hatchway.disk.entries import EntryError, spread, words_of, words_of_extended
from hatchway.disk.header import FIRST_BYTES
from hatchway.disk.image import Image
from hatchway.disk.leaves import LEAF_GRANULES

_DIGEST_BYTES = 16
# Entries that are read at once to be digested: of 2 MiB to 4 MiB.
_STEP_ENTRIES = 1 << 18
_SUBCLUSTERS = np.arange(32, dtype=np.uint64)


class Canvas(NamedTuple):
    """Leaves that lie behind each other, over which layers are painted.

    Attributes:
        start: Guest offset of the first one.
        granule: Bytes of a granule.
        words: A row a leaf, contiguous; 0 where nothing was painted.
        layers: Likewise.
        is_painted: Of each leaf, whether anything was.
    """

    start: int
    granule: int
    words: NDArray[np.uint64]
    layers: NDArray[np.uint16]
    is_painted: NDArray[np.bool_]

    def put(self, granules: NDArray[np.uint64], words: NDArray[np.uint64], layer: int) -> None:
        """Have a layer's words over what there is.

        Args:
            granules: Numbers of granules of the disk, which lie here.
            words: Of those.
            layer: The layer's number.
        """
        places = (granules - np.uint64(self.start // self.granule)).astype(np.intp)
        self.words.ravel()[places] = words
        self.layers.ravel()[places] = layer
        self.is_painted[places // LEAF_GRANULES] = True


class Tables:
    """The L2 entries of a layer, from the beginning of the disk to its end, each read once.

    Args:
        image: The layer; a raw one has none.
    """

    __slots__ = ("_digest", "_image", "_native", "_twin")

    def __init__(self, image: Image) -> None:
        self._image = image
        self._digest = blake2b(digest_size=_DIGEST_BYTES)
        if image.format == "raw":
            self._digest.update(b"raw" + image.size.to_bytes(8, "little"))
        else:
            self._digest.update(image.file.read(FIRST_BYTES, 0))
        self._native = kernel.table_reader(image)
        self._twin = Entries(image) if self._native is None else None

    @property
    def next_byte(self) -> int | None:
        """From which guest offset on there is more; None at the end."""
        reader = self._native if self._twin is None else self._twin
        assert reader is not None
        return reader.next_byte

    def take(self, end: int, canvas: Canvas | None = None, number: int = 0) -> None:
        """Digest the entries up to a guest offset, and have what they say on a canvas.

        Args:
            end: A multiple of the cluster size; not behind the end of the canvas.
            canvas: Begins where this goes on, or before; None for none.
            number: The layer's.

        Raises:
            CorruptImageError: If a table lies nowhere, or what is painted contradicts the
                format.
        """
        if self._twin is None:
            begin = self.next_byte
            taken = self._taken_natively(end, canvas, number)
            if taken is not None:
                self._digest.update(taken)
                return
            self._twin = Entries(self._image, begin or 0)
        numbers, entries = self._twin.take(end)
        if canvas is not None:
            canvas.put(*self._twin.words(numbers, entries, canvas.granule), number)
        columns = numbers.astype("<u8").view(np.uint64), entries
        self._digest.update(np.column_stack(columns).tobytes())

    def digest(self) -> bytes:
        """Of all that is taken, which is to be all that there is."""
        return self._digest.digest()

    def _taken_natively(self, end: int, canvas: Canvas | None, number: int) -> bytes | None:
        assert self._native is not None
        if canvas is None:
            return self._native.take(end)
        return self._native.paint(
            end,
            start=canvas.start,
            granule_bits=canvas.granule.bit_length() - 1,
            words=canvas.words,
            layers=canvas.layers,
            is_painted=canvas.is_painted,
            number=number,
        )


class Entries:
    """What native/disk/tables.hpp takes in the common case, in every case.

    Args:
        image: The layer.
        start: The guest offset from which on they are taken.
    """

    def __init__(self, image: Image, start: int = 0) -> None:
        self._image = image
        self._tables = image.l2_tables()
        self._table = next(self._tables, None)
        self._num_taken = 0  # entries of that table
        header = image.header
        if header is None:
            return
        self._cluster = header.cluster_size
        self._width = header.l2_entry_bytes // 8
        self._per_table = header.cluster_size // header.l2_entry_bytes
        self._num_clusters = -(-image.size // header.cluster_size)
        first = start // header.cluster_size
        while self._table is not None and (self._table + 1) * self._per_table <= first:
            self._table = next(self._tables, None)
        if self._table is not None:
            self._num_taken = max(0, first - self._table * self._per_table)

    @property
    def next_byte(self) -> int | None:
        """From which guest offset on there is more; None at the end."""
        if self._table is None:
            return None
        return (self._table * self._per_table + self._num_taken) * self._cluster

    def take(self, end: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The entries up to a guest offset, without those that are 0.

        Args:
            end: A multiple of the cluster size.

        Returns:
            The numbers of their guest clusters; and the entries as they lie in the file, shape
            ``(clusters, 1)``, or ``(clusters, 2)`` with subclusters.

        Raises:
            CorruptImageError: If a table lies nowhere.
        """
        numbers, entries = [np.zeros(0, np.uint64)], [np.zeros((0, self._width), np.uint64)]
        while self._table is not None:
            first = self._table * self._per_table
            stop = min(first + self._per_table, self._num_clusters)
            begin, until = first + self._num_taken, min(stop, end // self._cluster)
            if begin >= until:
                break
            raw = self._image.l2_entries(self._table, self._num_taken, until - begin)
            if raw is not None:
                found = np.frombuffer(raw, np.uint64).reshape(-1, self._width)
                there = np.flatnonzero(found[:, 0] if self._width == 1 else found.any(1))
                numbers.append(there.astype(np.uint64) + np.uint64(begin))
                entries.append(found[there])
            self._num_taken += until - begin
            if until == stop:
                self._table, self._num_taken = next(self._tables, None), 0
        return np.concatenate(numbers), np.concatenate(entries)

    def words(
        self, numbers: NDArray[np.uint64], entries: NDArray[np.uint64], granule: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """What entries say: the numbers of the granules that are no holes, and their words.

        Args:
            numbers: Of guest clusters, as :meth:`take` returns them.
            entries: Of those.
            granule: Bytes of a granule; divides the layer's own.

        Raises:
            CorruptImageError: If one contradicts the format.
        """
        header = self._image.header
        assert header is not None
        values = entries.view(">u8").astype(np.uint64)
        own, has_data_file = header.granule_bytes, header.has_data_file
        try:
            if header.has_subclusters:
                words = words_of_extended(values, self._cluster, own, has_data_file=has_data_file)
                pieces = (numbers[:, None] * np.uint64(32) + _SUBCLUSTERS).ravel()
            else:
                words = words_of(
                    values[:, 0],
                    self._cluster,
                    own,
                    has_data_file=has_data_file,
                    version=header.version,
                )
                pieces = numbers
        except EntryError as error:
            # By itself it says where.
            start = int(numbers[error.rank]) * self._cluster
            self._image.words(start, self._cluster // own, own)
            raise
        is_there = words != 0
        words, pieces = words[is_there], pieces[is_there]
        times = own // granule
        if times > 1:
            steps = np.arange(times, dtype=np.uint64)
            pieces = (pieces[:, None] * np.uint64(times) + steps).ravel()
        return pieces, spread(words, times, granule)


def digest_of(image: Image) -> bytes:
    """The digest of what a layer says, which is the same for each copy of its file.

    Of a qcow2 file it covers the first 4096 bytes, and each L2 entry of the disk that is not
    0, with the number of its guest cluster; of a raw one its size.

    Raises:
        CorruptImageError: If a table lies nowhere.
    """
    tables = Tables(image)
    while (start := tables.next_byte) is not None:
        cluster = image.header.cluster_size if image.header is not None else 1
        tables.take((start // cluster + _STEP_ENTRIES) * cluster)
    return tables.digest()
