"""A chain of images as one disk: one lookup and one read, however many files there are."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hatchway.disk.composing import leaves_of
from hatchway.disk.extents import Extent, granule_of, limits_of
from hatchway.disk.files import Descriptors
from hatchway.disk.image import Image
from hatchway.disk.index.shortcut import Shortcut
from hatchway.disk.kernel import KernelLeaves
from hatchway.disk.layers import open_layers
from hatchway.disk.naming import Allowed
from hatchway.disk.pieces import Pieces, read_ranges
from hatchway.disk.views import DiskView

if TYPE_CHECKING:
    from hatchway.disk._native import ChainKernel
    from hatchway.disk.overlays import Overlay
    from hatchway.disk.writes import Writes

_DEFAULT_CACHE_BYTES = 16 << 20


class Chain:
    """An image and all that lies below it, read as one disk.

    Every byte is the byte that QEMU reads. Where each granule lies is merged from the tables
    of all files when its region is first read, and kept: a read costs one lookup and one
    ``pread``, whatever the chain's length. Any number of threads may read. The files are
    locked as QEMU locks what it reads: nobody changes them meanwhile. After sQemu
    (arXiv:2205.06842), with files that stock QEMU opens. A forked process reads on; a pickled
    chain is opened anew.

    A chain that is opened for writing writes to the active image only, as QEMU would. After a
    crash at any moment the files are sound and hold all that was written before the last
    :meth:`flush` that returned.

    Args:
        path: The active image.
        writable: Whether it is written to, by this chain only.
        image_format: ``"qcow2"`` or ``"raw"``; None to look at its first bytes.
        snapshot: The id or name of an internal snapshot of it, to be read instead.
        allow_backing: Whether backing and data files may lie outside the image's
            directory: True, or the directories that they may lie in as well.
        cache_bytes: Bound of what is kept of the tables and of unpacked clusters, for all
            files together.
        max_descriptors: How many files may be open; None for what the process may have,
            whose soft limit is raised for it. Others are opened when they are read.
        lock: Whether the files are locked.
        use_index: Whether a stored index is used where there is one and it holds.

    Attributes:
        size: Bytes of the disk.
        images: The files of the chain, the base first.
        granule_bytes: The smallest piece that any of them allocates.
        num_indexed: How many files, from the base on, a stored index speaks for.

    Raises:
        ImageError: If a file cannot be opened, is damaged, or is held by a writer.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        writable: bool = False,
        image_format: str | None = None,
        snapshot: str | None = None,
        allow_backing: bool | Sequence[str | os.PathLike[str]] = False,
        cache_bytes: int = _DEFAULT_CACHE_BYTES,
        max_descriptors: int | None = None,
        lock: bool = True,
        use_index: bool = True,
    ) -> None:
        if cache_bytes < 0:
            raise ValueError(f"cache_bytes must be at least 0, not {cache_bytes}")
        if max_descriptors is not None and max_descriptors < 1:
            raise ValueError(f"max_descriptors must be at least 1, not {max_descriptors}")
        if writable and snapshot is not None:
            raise ValueError(f"snapshot {snapshot!r} can be read only; writable must be False")
        top = Path(path).absolute()  # the same file whatever the working directory becomes
        self._opened_by: tuple[Path, dict[str, Any]] = (
            top,
            {
                "image_format": image_format,
                "snapshot": snapshot,
                "allow_backing": allow_backing,
                "cache_bytes": cache_bytes,
                "max_descriptors": max_descriptors,
                "lock": lock,
                "use_index": use_index,
            },
        )
        self.size: int = 0
        self.images: list[Image] = []
        self._lock: AbstractContextManager[Any] = threading.RLock() if writable else nullcontext()
        self._writes: Writes | None = None
        self._descriptors = Descriptors(max_descriptors)
        with ExitStack() as opened:
            opened.callback(self.close)
            files = None
            if writable:
                from hatchway.disk.writes import LockedFiles, Writes  # which most do not need

                files = LockedFiles(top, lock=lock)
                opened.callback(files.close)
            allowed = Allowed(top, allow_backing)
            shortcut = Shortcut(allowed, self._descriptors, locks=lock) if use_index else None
            if shortcut is not None:
                opened.callback(shortcut.close)
            self.images = open_layers(
                top,
                self._descriptors,
                allowed,
                image_format=image_format,
                snapshot=snapshot,
                locks=lock,
                is_written=writable,
                shortcut=shortcut,
            )
            if files is not None:
                files.open_data_file_of(self.images[-1])
            self.num_indexed = 0 if shortcut is None else shortcut.num_layers
            self.size = self.images[-1].size
            self.granule_bytes = granule_of(self.images)
            self._leaves = leaves_of(
                self.images,
                self.granule_bytes,
                cache_bytes * 3 // 4 if files is None else cache_bytes // 2,
                shortcut,
                top_fd=-1 if files is None else files.data_fd,
                may_share=lock,
            )
            self._pieces = Pieces(
                self.images, self.granule_bytes, self._leaves, cache_bytes // 4, self._lock
            )
            if files is not None:
                self._writes = Writes(
                    files,
                    self.images,
                    self.granule_bytes,
                    self._leaves,
                    self.read_at,
                    self._lock,
                    self._reshaped,
                    cache_bytes // 4,
                )
            opened.pop_all()

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes of the disk; as ``os.pread``, fewer only at its end.

        Args:
            offset: Where they begin.
            size: How many.

        Raises:
            ValueError: If one is negative, or the chain is closed.
            ImageError: If a file is damaged or cannot be read.
        """
        found: bytes | None = self._leaves.read_at(offset, size)  # what most reads are
        if found is not None:
            return found
        with self._lock:
            size = self._clipped(offset, size)
            pieces = [self._pieces.read(run) for run in self._pieces.runs(offset, offset + size)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readinto_at(self, offset: int, buffer: Any) -> int:
        """Read bytes of the disk into a buffer.

        Args:
            offset: Where they begin.
            buffer: Anything that can be written to as bytes: a bytearray, an array.

        Returns:
            How many were read: fewer than it holds only at the disk's end.

        Raises:
            ValueError, ImageError: As in :meth:`read_at`.
        """
        view = memoryview(buffer).cast("B")
        if self._leaves.read_into(offset, view):
            return len(view)
        with self._lock:
            size = self._clipped(offset, len(view))
            for run in self._pieces.runs(offset, offset + size):
                at = run.start - offset
                view[at : at + run.length] = self._pieces.read(run)
        return size

    def read_many(self, ranges: Iterable[tuple[int, int]], *, num_threads: int = 1) -> list[bytes]:
        """Several reads, in the order in which they lie on the disk.

        Args:
            ranges: Offsets and sizes, as of :meth:`read_at`.
            num_threads: How many of them may wait for a disk at a time.

        Returns:
            What each one found, in the order of ``ranges``.

        Raises:
            ValueError, ImageError: As in :meth:`read_at`.
        """
        return read_ranges(self.read_at, list(ranges), num_threads)

    def view(self, start: int = 0, end: int | None = None) -> DiskView:
        """Bytes ``[start, end)`` of the disk as a sequence, read where it is looked at.

        Raises:
            ValueError: If the range is not within the disk.
        """
        return DiskView(self, start, self.size if end is None else end)

    def write_at(self, offset: int, data: Any) -> None:
        """Write bytes to the disk.

        Args:
            offset: Where they begin.
            data: Anything that can be read as bytes.

        Raises:
            ValueError: If they are not all within the disk, or the chain is not writable.
            ImageWriteError: If they could not be written; some of them may have been.
            ImageError: If a file is damaged.
        """
        self._written().write(offset, data)

    def write_zeroes_at(self, offset: int, size: int, *, may_unmap: bool = True) -> None:
        """Have a range of the disk read as zeros.

        Args:
            offset: Where it begins.
            size: Its bytes.
            may_unmap: Whether the room that it takes in the file may be given up.

        Raises:
            ValueError, ImageError: As in :meth:`write_at`.
        """
        self._written().write_zeroes(offset, size, may_unmap=may_unmap)

    def discard_at(self, offset: int, size: int) -> None:
        """Give up the clusters that lie wholly in a range; they read as zeros from then on.

        Raises:
            ValueError, ImageError: As in :meth:`write_at`.
        """
        self._written().discard(offset, size)

    def flush(self) -> None:
        """Return when all that was written survives a crash; at once if nothing can be.

        Raises:
            ImageWriteError: If it may not. Where the host's disk is full, this may be tried
                again; where it failed to sync, every later call says so.
        """
        if self._writes is not None:
            self._writes.flush()

    def resize(self, size: int) -> None:
        """Make the disk shorter, or longer with zeros, and flush.

        Args:
            size: Bytes: a multiple of 512.

        Raises:
            ValueError: If no disk of the file can have that size, or the chain is not writable.
            ImageError: As in :meth:`write_at`. :attr:`size` is what it is then.
        """
        self._written().resize(size)

    def snapshot(
        self,
        new: str | os.PathLike[str],
        *,
        index: bool | None = None,
        cluster_size: int | None = None,
        extended_l2: bool | None = None,
        compression: Literal["zlib", "zstd"] = "zlib",
        refcount_bits: int = 16,
    ) -> Overlay:
        """Freeze the active image, and go on in an empty overlay of it: the same disk.

        What was written before is flushed into the old image; what is written once this has
        returned lies in the new one. Other threads read and write meanwhile. A crash leaves the
        old chain, or the new one as well. Arguments are those of :func:`hatchway.disk.snapshot`.

        Raises:
            ValueError: If the chain is not writable, an argument is none that ``create`` takes,
                or the overlay would have smaller pieces than :attr:`granule_bytes`.
            ImageError: If there is a file of the new name, or as in :meth:`flush`. Then there is
                no overlay, and the chain is what it was.
        """
        return self._written().snapshot(
            Path(new).absolute(),
            self._descriptors,
            index,
            cluster_size=cluster_size,
            extended_l2=extended_l2,
            compression=compression,
            refcount_bits=refcount_bits,
        )

    def map(self, start: int = 0, end: int | None = None) -> Iterator[Extent]:
        """What lies where: the extents of the disk from ``start`` to ``end``, in order.

        Raises:
            ValueError: If the range is not within the disk.
            ImageError: If a file is damaged.
        """
        end = self.size if end is None else end
        if not 0 <= start <= end <= self.size:
            raise ValueError(f"[{start}, {end}) is not within the disk's {self.size} bytes")
        yield from self._pieces.extents(start, end)

    @property
    def is_writable(self) -> bool:
        """Whether it is open for writing."""
        return self._writes is not None

    @property
    def cached_bytes(self) -> int:
        """What is kept of the tables now."""
        return self._leaves.num_bytes

    def kernel(self) -> ChainKernel:
        """The chain in native code, for a server.

        Raises:
            RuntimeError: If there is no native code.
        """
        if not isinstance(self._leaves, KernelLeaves):
            raise RuntimeError("Hatchway's compiled kernels are not built here")
        return self._leaves.kernel

    def load_leaf(self, rank: int) -> None:
        """Have a leaf of the tables merged, if it is not there."""
        with self._lock:
            self._leaves.load(rank)

    def close(self) -> None:
        """Flush what was written, and close all files; they are closed in any case.

        Raises:
            ImageWriteError: As in :meth:`flush`.
        """
        writes, self._writes = self._writes, None
        try:
            if writes is not None:
                writes.close()
        finally:
            leaves = getattr(self, "_leaves", None)
            if leaves is not None:
                leaves.close()
            for image in self.images:
                image.close()
            self._descriptors.close()
            self.size = 0

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._writes is not None:
            raise TypeError(
                "a chain that is written to cannot be pickled: no second process may write to "
                "it; open it with writable=False, or there"
            )
        top, arguments = self._opened_by
        return functools.partial(Chain, **arguments), (top,)

    def _reshaped(self) -> None:
        """The highest image is another one now, or has another size."""
        self.size = self.images[-1].size
        self._pieces.limits = limits_of(self.images)

    def _written(self) -> Writes:
        if self._writes is None:
            closed = not self.images or self.images[-1].is_closed
            said = "is closed" if closed else "was opened to be read only; pass writable=True"
            raise ValueError(f"the chain {said}")
        return self._writes

    def _clipped(self, offset: int, size: int) -> int:
        if offset < 0 or size < 0:
            raise ValueError(f"offset and size must be at least 0, not {offset} and {size}")
        if not self.images or self.images[-1].is_closed:
            raise ValueError("the chain is closed")
        return max(0, min(size, self.size - offset))
