"""Reading a stored index."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hatchway.disk.arrays import np
from hatchway.disk.errors import DamagedIndexError
from hatchway.disk.files import Identity
from hatchway.disk.index.blocks import (
    COMMIT_HEAD_BYTES,
    FIRST_BLOCK,
    Commit,
    newest_slot,
    parse_commit,
)
from hatchway.disk.index.records import (
    MAX_RECORDS_BYTES,
    LayerRecord,
    name_hash,
    parse_records,
    recorded_name,
)
from hatchway.disk.index.sidecar import has_sidecar, sidecar_of
from hatchway.disk.index.tree import MAX_DEPTH, IndexFile, Tree
from hatchway.disk.layers import MAX_LAYERS
from hatchway.disk.leaves import LEAF_GRANULES
from hatchway.disk.words import KIND_SHIFT, Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DATA = Kind.DATA << KIND_SHIFT


class StoredIndex:
    """The merged leaves of a chain, from its base up to one of its layers, in a file.

    Nothing of it is believed until the caller has shown, with :meth:`valid_prefix`, which of
    its layers are what they were. Any number of threads may read.

    Attributes:
        path: Its file.
        layers: The layers that it covers, the base first.
        commit: What covers them all.
    """

    def __init__(self, path: Path, fd: int, layer: Path | None = None) -> None:
        """Read an open file, of which this object takes hold.

        Args:
            path: Of the index.
            fd: Its descriptor.
            layer: The highest layer; None for whatever was indexed last.

        Raises:
            DamagedIndexError: If there is nothing to be read.
        """
        self.path = path
        self._file = IndexFile(path, fd, 0)
        try:
            slot = newest_slot(os.pread(fd, FIRST_BLOCK, 0))
            if slot is None:
                raise self._file.damage(0, "has a damaged header, or is of another version,")
            self.slot = slot
            self._file.end = slot.end
            self.commit_offset, self.commit = self._chosen(slot.commit, layer)
            self.layers, self.segments = self._load_records()
            self._trees: dict[int, Tree] = {}
        except BaseException:
            self.close()
            raise

    @classmethod
    def find(cls, top_backing_path: Path) -> StoredIndex | None:
        """The index of the chain up to a layer; None if it is absent or cannot be read."""
        if not has_sidecar(top_backing_path):
            return None
        path = sidecar_of(top_backing_path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            return cls(path, fd, top_backing_path)
        except (DamagedIndexError, OSError):
            return None

    @property
    def granule_bytes(self) -> int:
        """What a word stands for, in bytes of the disk."""
        return 1 << self.commit.granule_bits

    @property
    def file(self) -> IndexFile:
        """What its blocks are read from."""
        return self._file

    def path_of(self, name: str) -> Path:
        """The file that a name in a record means."""
        return self.path.parent / name

    def valid_prefix(
        self,
        identities: Sequence[Identity],
        digest_of: Callable[[int], bytes] | None = None,
    ) -> int:
        """How many layers, from the base up, may be read through the index.

        A layer is what it was if its file has the same device, inode, size and time stamps, and
        the time stamps were older than 2 s when it was indexed.

        Args:
            identities: Of the files of the caller's chain, the base first; taken from
                descriptors that it opened.
            digest_of: Gives the digest (:func:`~hatchway.disk.index.digest_of`) of one of
                them; called for each layer that its identity does not prove, up to the first
                that has changed. None to take each of them for changed.

        Returns:
            The largest number of layers that hold and have a commit of their own; 0 if none.
        """
        num_held = self.num_held(identities, digest_of)
        for _, commit in self.ancestry():
            if commit.num_layers <= num_held:
                if commit.num_layers not in self._trees:
                    self._trees[commit.num_layers] = self._tree(commit)
                return commit.num_layers
        return 0

    def num_held(
        self,
        identities: Sequence[Identity],
        digest_of: Callable[[int], bytes] | None = None,
        *,
        by_digest_only: bool = False,
    ) -> int:
        """How many layers from the base up are what they were; as in :meth:`valid_prefix`."""
        pairs = zip(self.layers, identities, strict=False)
        number = -1
        for number, (record, identity) in enumerate(pairs):
            if not by_digest_only and record.proves(identity):
                continue
            # Whatever the time stamps say, a file of another length is another file.
            if record.identity.file_bytes != identity.file_bytes or digest_of is None:
                return number
            if digest_of(number) != record.digest:
                return number
        return number + 1

    def leaf(self, rank: int, num_layers: int) -> tuple[memoryview, memoryview] | None:
        """The words and layers of a leaf of the index, in its own granules.

        Args:
            rank: Which one.
            num_layers: What :meth:`valid_prefix` returned.

        Returns:
            None where all granules are holes.

        Raises:
            ValueError: If ``num_layers`` is something else.
            DamagedIndexError: If it cannot be read as it was written; the caller merges it.
        """
        found = self.region(
            rank * LEAF_GRANULES * self.granule_bytes, self.granule_bytes, num_layers
        )
        return None if found is None else (found[0].data, found[1].data)

    def region(
        self, start: int, granule: int, num_layers: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint16]] | None:
        """The words and layers of a leaf of a chain, in the chain's granules.

        Args:
            start: Guest offset, a multiple of ``LEAF_GRANULES * granule``.
            granule: The smallest piece that any file of the chain allocates, in bytes.
            num_layers: What :meth:`valid_prefix` returned.

        Returns:
            As :meth:`leaf`.

        Raises:
            ValueError: As :meth:`leaf`.
            DamagedIndexError: As :meth:`leaf`.
        """
        tree = self._trees.get(num_layers)
        if tree is None:
            raise ValueError(f"num_layers must be what valid_prefix returned, not {num_layers}")
        found = self._stored(tree, start, granule, num_layers) if tree.root else None
        base = self.layers[0]
        if base.format != "raw" or start >= base.size:
            return found
        # Of a raw file nothing is stored: all of it is data, each byte in its own place.
        words: NDArray[np.uint64] = np.arange(LEAF_GRANULES, dtype=np.uint64)
        words = (words * np.uint64(granule) + np.uint64(start)) | np.uint64(_DATA)
        if found is None:
            return words, np.zeros(LEAF_GRANULES, np.uint16)
        return np.where(found[0] == 0, words, found[0]), found[1]

    def ancestry(self) -> Iterator[tuple[int, Commit]]:
        """The offsets and commits of fewer and fewer of its layers, all of them first."""
        offset, commit = self.commit_offset, self.commit
        while True:
            yield offset, commit
            offset = commit.parent
            if not offset:
                return
            try:
                parent = self._commit_at(offset)
            except DamagedIndexError:
                return
            if parent.num_layers >= commit.num_layers or parent.granule_bits != commit.granule_bits:
                return  # no builder writes that
            commit = parent

    def close(self) -> None:
        """Close its file."""
        fd, self._file.fd = self._file.fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close

    def __enter__(self) -> StoredIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stored(
        self, tree: Tree, start: int, granule: int, num_layers: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint16]] | None:
        own = self.granule_bytes
        if granule == own:
            rank = start // (LEAF_GRANULES * own)
            found = tree.leaf(rank)
            if found is not None:
                self._check(*found, num_layers, tree, rank)
            return found
        # The pieces of one granule lie behind each other, and so do the granules of one piece.
        offsets = np.arange(LEAF_GRANULES, dtype=np.uint64) * np.uint64(granule) + np.uint64(start)
        granules = offsets // np.uint64(own)
        ranks = granules // np.uint64(LEAF_GRANULES)
        within = granules % np.uint64(LEAF_GRANULES)
        words = np.zeros(LEAF_GRANULES, np.uint64)
        layers = np.zeros(LEAF_GRANULES, np.uint16)
        for rank in np.unique(ranks).tolist():
            found = tree.leaf(rank)
            if found is not None:
                self._check(*found, num_layers, tree, rank)
                here = ranks == rank
                words[here], layers[here] = found[0][within[here]], found[1][within[here]]
        is_data = (words >> np.uint64(KIND_SHIFT)) == Kind.DATA
        words[is_data] += (offsets % np.uint64(own))[is_data]
        return (words, layers) if words.any() else None

    def _check(
        self,
        words: NDArray[np.uint64],
        layers: NDArray[np.uint16],
        num_layers: int,
        tree: Tree,
        rank: int,
    ) -> None:
        """Whoever wrote the file: a leaf names no layer that there is not, and no raw one."""
        is_raw = self.layers[0].format == "raw"
        if int(layers.max()) >= num_layers or (is_raw and ((words != 0) & (layers == 0)).any()):
            raise self._file.damage(tree.offset_of(0, rank), "has a leaf of other layers")

    def _tree(self, commit: Commit) -> Tree:
        return Tree(self._file, commit.root, commit.depth)

    def _chosen(self, offset: int, layer: Path | None) -> tuple[int, Commit]:
        """The newest commit whose highest layer is ``layer``; the newest of all if none is."""
        newest = offset, self._commit_at(offset)
        if layer is None:
            return newest
        named = name_hash(recorded_name(layer, os.path.abspath(self.path.parent)))
        try:
            status = os.stat(layer)
            file = status.st_dev, status.st_ino
        except OSError:
            file = None
        commit = newest[1]
        by_name = None
        while True:
            if (commit.device, commit.inode) == file:
                return offset, commit
            if by_name is None and commit.name_hash == named:
                by_name = offset, commit
            offset = commit.predecessor
            if not offset:
                return by_name or newest
            commit = self._commit_at(offset)

    def _commit_at(self, offset: int) -> Commit:
        commit = parse_commit(self._file.read(offset, COMMIT_HEAD_BYTES), offset)
        if (
            commit is None
            or not 9 <= commit.granule_bits <= 21
            or not 1 <= commit.depth <= MAX_DEPTH
            or not commit.first_layer < commit.num_layers <= MAX_LAYERS
            or commit.records_bytes > MAX_RECORDS_BYTES
        ):
            raise self._file.damage(offset, "has a damaged commit")
        return commit

    def _load_records(self) -> tuple[list[LayerRecord], list[tuple[int, int, int]]]:
        """The records of all layers; and which commits have them: offset, first layer, end."""
        parts: list[list[LayerRecord]] = []
        segments: list[tuple[int, int, int]] = []
        offset, commit, end = self.commit_offset, self.commit, self.commit.num_layers
        while True:
            raw = self._file.read(offset + COMMIT_HEAD_BYTES, commit.records_bytes)
            found = parse_records(raw, commit.num_layers - commit.first_layer)
            if zlib.crc32(raw) != commit.records_crc or found is None or commit.num_layers != end:
                raise self._file.damage(offset, "has damaged records of layers")
            parts.append(found)
            segments.append((offset, commit.first_layer, end))
            end, offset = commit.first_layer, commit.records_before
            if not end:
                break
            commit = self._commit_at(offset)
        return [record for part in reversed(parts) for record in part], segments[::-1]
