"""The L2 entries of one layer, taken piece by piece: digested, and made into words."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from hatchway.disk.entries import EntryError, spread, words_of, words_of_extended
from hatchway.disk.header import FIRST_BYTES
from hatchway.disk.image import Image

_DIGEST_BYTES = 16
# Entries that are read at once to be digested: of 2 MiB to 4 MiB.
_STEP_ENTRIES = 1 << 18
_SUBCLUSTERS = np.arange(32, dtype=np.uint64)


class Tables:
    """The L2 entries of a layer, from the beginning of the disk to its end, each read once.

    Args:
        image: The layer; a raw one has none.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._digest = blake2b(digest_size=_DIGEST_BYTES)
        header = image.header
        if header is None:
            self._digest.update(b"raw" + image.size.to_bytes(8, "little"))
        else:
            self._digest.update(image.file.read(FIRST_BYTES, 0))
            self._cluster = header.cluster_size
            self._width = header.l2_entry_bytes // 8
            self._per_table = header.cluster_size // header.l2_entry_bytes
            self._num_clusters = -(-image.size // header.cluster_size)
        self._tables = image.l2_tables()
        self._table = next(self._tables, None)
        self._num_taken = 0  # entries of that table

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
        taken = np.concatenate(numbers), np.concatenate(entries)
        self._digest.update(
            np.column_stack((taken[0].astype("<u8").view(np.uint64), taken[1])).tobytes()
        )
        return taken

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

    def digest(self) -> bytes:
        """Of all that is taken, which is to be all that there is."""
        return self._digest.digest()


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
