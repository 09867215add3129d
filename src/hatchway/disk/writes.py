"""Writes to a chain: to its active layer, and to what is known of where things lie."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from hatchway.disk.active import ActiveLayer, open_to_write
from hatchway.disk.active.storage import OpenFile
from hatchway.disk.image import Image
from hatchway.disk.kernel import KernelLeaves
from hatchway.disk.leaves import LEAF_GRANULES, Leaves


class LockedFiles:
    """The active file and its data file, open and locked for writing.

    Attributes:
        file: The active file.
        data: Its external data file; None without one.
    """

    def __init__(self, path: Path, *, lock: bool) -> None:
        self._lock = lock
        self.file = open_to_write(path, lock=lock)
        self.data: OpenFile | None = None

    def open_data_file_of(self, image: Image) -> None:
        """Open what the image keeps its clusters in, too."""
        if image.data is not image.file:
            self.data = open_to_write(image.data.path, lock=self._lock)

    @property
    def data_fd(self) -> int:
        """The descriptor of the file that clusters lie in."""
        return (self.file if self.data is None else self.data).fd

    def close(self) -> None:
        """Close both."""
        self.file.close()
        if self.data is not None:
            self.data.close()


class Writes:
    """What a chain that is written to has beyond one that is read.

    Args:
        files: The highest file's; closed with this.
        images: The chain's, the base first.
        granule: Bytes of a granule.
        leaves: What is known of where things lie; kept in step.
        read: Reads the disk.
        lock: Held while the chain is changed, and while it is read in Python.
        cache_bytes: Bound of what is kept of the tables.
    """

    def __init__(
        self,
        files: LockedFiles,
        images: list[Image],
        granule: int,
        leaves: Leaves | KernelLeaves,
        read: Callable[[int, int], bytes],
        lock: AbstractContextManager[Any],
        cache_bytes: int,
    ) -> None:
        self._image = images[-1]
        self._granule = granule
        self._leaves = leaves
        self._lock = lock
        self._pid = os.getpid()
        self._has_changed = False
        self._image.snapshots()  # a file whose snapshots cannot be read is not written to
        header = self._image.header
        # In a file with snapshots a cluster may belong to several of them.
        self._is_own = header is not None and header.num_snapshots == 0
        self.layer = ActiveLayer(
            self._image,
            files.file,
            files.data,
            read,
            below_bytes=images[-2].size if len(images) > 1 else 0,
            changed=self._changed,
            settle=leaves.settle,
            cache_bytes=cache_bytes,
        )
        assert header is not None  # the active layer refuses raw files
        self._cluster_bytes = header.cluster_size
        self._entries_per_table = header.cluster_size // header.l2_entry_bytes
        _LIVING.add(self)

    def write(self, offset: int, data: Any) -> None:
        """As :meth:`ActiveLayer.write`; in place without a lock, where that is possible."""
        if self._leaves.overwrite(offset, data):
            return
        with self._lock:
            self._check_process()
            self._has_changed = False
            self.layer.write(offset, data)
            # From the first write on nobody else's notes of the file are in the header.
            self._leaves.allow_overwriting(self._is_own)
            if self._is_own and not self._has_changed:
                # It was in place: the next one there is, without a lock.
                self._leaves.load(offset // (LEAF_GRANULES * self._granule))

    def write_zeroes(self, offset: int, size: int, *, may_unmap: bool) -> None:
        """As :meth:`ActiveLayer.write_zeroes`."""
        with self._lock:
            self._check_process()
            self.layer.write_zeroes(offset, size, may_unmap=may_unmap)

    def discard(self, offset: int, size: int) -> None:
        """As :meth:`ActiveLayer.discard`."""
        with self._lock:
            self._check_process()
            self.layer.discard(offset, size)

    def flush(self) -> None:
        """As :meth:`ActiveLayer.flush`, with what was written in place."""
        with self._lock:
            self._check_process()
            try:
                self.layer.flush(also_data=True)
            except BaseException:
                self._leaves.allow_overwriting(False)
                raise

    def resize(self, size: int) -> None:
        """As :meth:`ActiveLayer.resize`."""
        with self._lock:
            self._check_process()
            self.layer.resize(size)

    def close(self) -> None:
        """As :meth:`ActiveLayer.close`, with what was written in place."""
        if os.getpid() != self._pid:
            return  # what is not yet in the file is the parent's to write
        with self._lock:
            self._leaves.allow_overwriting(False)
            self._leaves.settle()
            self.layer.close(also_data=True)

    def after_fork(self) -> None:
        """In the child of a fork nothing is written."""
        self._leaves.allow_overwriting(False)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ValueError(
                "this chain was opened for writing before a fork, and only the parent may write "
                "to it; open it in the child, once the parent has closed it"
            )

    def _changed(self, start: int, end: int) -> None:
        """Have leaves say what the file says now of guest clusters, which one L2 table has."""
        self._has_changed = True
        size, per_table = self._cluster_bytes, self._entries_per_table
        table, first = divmod(start // size, per_table)
        entries = self._image.l2_entries(table, first, (end - start) // size)
        if entries is None or not self._leaves.update(start, entries):
            # What lies below is seen again.
            region = LEAF_GRANULES * self._granule
            self._leaves.drop(start // region, -(-end // region))


_LIVING: weakref.WeakSet[Writes] = weakref.WeakSet()


def _after_fork() -> None:
    for writes in _LIVING:
        writes.after_fork()


os.register_at_fork(after_in_child=_after_fork)
