"""Writes to a chain: to its active layer, and to what is known of where things lie."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatchway.disk.active import ActiveLayer, open_to_write
from hatchway.disk.active.storage import OpenFile
from hatchway.disk.errors import ImageError
from hatchway.disk.files import Descriptors
from hatchway.disk.image import Image
from hatchway.disk.kernel import KernelLeaves
from hatchway.disk.leaves import LEAF_GRANULES, Leaves
from hatchway.disk.locks import lock_beside_writer

if TYPE_CHECKING:
    from hatchway.disk.overlays import Overlay

# Leaves that change together; of more than that each is made anew when it is read.
_MOST_UPDATED = 8


class LockedFiles:
    """The active file and its data file, open and locked for writing.

    Attributes:
        is_locked: Whether they are locked.
        file: The active file.
        data: Its external data file; None without one.
    """

    def __init__(self, path: Path, *, lock: bool) -> None:
        self.is_locked = lock
        self.file = open_to_write(path, lock=lock)
        self.data: OpenFile | None = None

    def open_data_file_of(self, image: Image) -> None:
        """Open what the image keeps its clusters in, too."""
        if image.data is not image.file:
            self.data = open_to_write(image.data.path, lock=self.is_locked)

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
        reshaped: Called, with that held, when the highest image is another one, or as long.
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
        reshaped: Callable[[], None],
        cache_bytes: int,
    ) -> None:
        self._images = images
        self._image = images[-1]
        self._granule = granule
        self._leaves = leaves
        self._read = read
        self._lock = lock
        self._reshaping = threading.Lock()  # taken before that one, and held for longer
        self._reshaped = reshaped
        self._is_locked = files.is_locked
        self._cache_bytes = cache_bytes
        self._pid = os.getpid()
        self._has_changed = False
        header = self._image.header
        # In a file with snapshots a cluster may belong to several of them.
        self._may_overwrite = header is not None and header.num_snapshots == 0
        self.layer = self._layer(files, self._image, images[-2].size if len(images) > 1 else 0)
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
            self._leaves.allow_overwriting(self._may_overwrite, self.layer.noted_bytes)
            if self._may_overwrite and not self._has_changed:
                # It was in place: the next one there is, without a lock. What is damaged below is
                # for those to hear of who read.
                with contextlib.suppress(ImageError):
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
        self._check_process()
        with self._reshaping, self._lock:
            self.layer.note(self._leaves.stop_overwriting())
            try:
                self.layer.resize(size)
            finally:
                self._reshaped()
                self._leaves.resize(self._image.size)

    def snapshot(
        self,
        path: Path,
        descriptors: Descriptors,
        index: bool | None,
        **form: Any,
    ) -> Overlay:
        """As :meth:`hatchway.disk.Chain.snapshot`.

        Args:
            path: Of the overlay, absolute.
            descriptors: Bounds how many files are open.
            index: As there.
            form: What the overlay is to be like.
        """
        from hatchway.disk.index import build
        from hatchway.disk.overlays import empty_overlay, has_index

        self._check_process()
        with self._reshaping:
            frozen = self._image
            made = empty_overlay(frozen, path, **form)
            try:
                self._go_on_in(Image(path, descriptors, "qcow2"))
            except BaseException:
                if self._images[-1] is frozen:
                    path.unlink()
                raise
            if not (index or (index is None and has_index(frozen))):
                return made
            try:
                built = build(self._images[:-1])
            except ImageError as error:
                return made._replace(index_error=error)
            return made._replace(built=built)

    def _go_on_in(self, image: Image) -> None:
        """Have all that is written from now on lie in an empty file above the highest one.

        That one is flushed, and held as files below are.
        """
        old, frozen = self.layer, self._image
        with contextlib.ExitStack() as failing:
            failing.callback(image.close)
            granule = image.granule_bytes
            if granule is not None and granule < self._granule:
                raise ValueError(
                    f"cluster_size and extended_l2 must not make pieces of {granule} bytes, since "
                    f"the smallest of the chain have {self._granule} as long as it is open; "
                    "close it, and make the overlay with hatchway.disk.snapshot"
                )
            files = LockedFiles(image.path, lock=self._is_locked)
            failing.callback(files.close)
            layer = self._layer(files, image, frozen.size)
            self.flush()  # most of it, before those that write in place have to wait
            with self._lock:
                for file in {frozen.file, frozen.data}:
                    if self._is_locked and file.fd >= 0:
                        lock_beside_writer(file.fd, file.path)
                old.note(self._leaves.stop_overwriting())
                old.finish(also_data=True)
                # An interrupt from here on leaves a chain that is read, and written to no more.
                self._leaves.replace_top([frozen, image], files.data_fd)
                self._images.append(image)
                failing.pop_all()
                self._image, self._may_overwrite, self.layer = image, True, layer
                self._reshaped()
                old.close()
                for file in {frozen.file, frozen.data}:
                    file.note_writes()

    def close(self) -> None:
        """As :meth:`ActiveLayer.close`, with what was written in place."""
        if os.getpid() != self._pid:
            return  # what is not yet in the file is the parent's to write
        with self._lock:
            self.layer.note(self._leaves.stop_overwriting())
            self.layer.close(also_data=True)

    def after_fork(self) -> None:
        """In the child of a fork nothing is written."""
        self._leaves.allow_overwriting(False)

    def _layer(self, files: LockedFiles, image: Image, below_bytes: int) -> ActiveLayer:
        return ActiveLayer(
            image,
            files.file,
            files.data,
            self._read,
            below_bytes=below_bytes,
            changed=self._changed,
            settle=self._leaves.settle,
            doubted=self._doubt,
            cache_bytes=self._cache_bytes,
        )

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ValueError(
                "this chain was opened for writing before a fork, and only the parent may write "
                "to it; open it in the child, once the parent has closed it"
            )

    def _doubt(self) -> None:
        """Have nothing written in place without a look at where it lies."""
        self._may_overwrite = False
        self._leaves.allow_overwriting(False)

    def _changed(self, start: int, end: int) -> None:
        """Have leaves say what the file says now of guest clusters, which one L2 table has."""
        self._has_changed = True
        region = LEAF_GRANULES * self._granule
        if end - start <= _MOST_UPDATED * region:
            layout = self._image.layout
            assert layout is not None  # the active layer refuses raw files
            rank, within = divmod(start, layout.table_bytes)
            first, num = within >> layout.cluster_bits, (end - start) >> layout.cluster_bits
            entries = self._image.l2_entries(rank, first, num)
            if entries is not None and self._leaves.update(start, entries):
                return
        # What lies below is seen again.
        self._leaves.drop(start // region, -(-end // region))


_LIVING: weakref.WeakSet[Writes] = weakref.WeakSet()


def _after_fork() -> None:
    for writes in _LIVING:
        writes.after_fork()


os.register_at_fork(after_in_child=_after_fork)
