"""The active layer of a chain: one qcow2 file that is written to."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from hatchway.disk.active.backing import set_backing
from hatchway.disk.active.bitmaps import DirtyBitmaps
from hatchway.disk.active.creation import checked_name
from hatchway.disk.active.emptying import empty
from hatchway.disk.active.guest import GuestClusters
from hatchway.disk.active.ordered import OrderedFiles
from hatchway.disk.active.resizing import resize
from hatchway.disk.active.storage import WritableFile
from hatchway.disk.active.writing import write
from hatchway.disk.active.zeroing import discard, write_zeroes
from hatchway.disk.arrays import np
from hatchway.disk.errors import CorruptImageError, UnsupportedImageError
from hatchway.disk.fields import AUTOCLEAR_AT, AUTOCLEAR_BITMAPS, AUTOCLEAR_RAW_DATA_FILE
from hatchway.disk.header import FIRST_BYTES, CutHeaderError, Header, parse_header
from hatchway.disk.image import Image
from hatchway.disk.snapshots import read_snapshots

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DEFAULT_CACHE_BYTES = 4 << 20


def _nothing_below(offset: int, size: int) -> bytes:
    return bytes(size)


def _nobody(start: int, end: int) -> None:
    pass


def _at_once() -> None:
    pass


class ActiveLayer:
    """The active file of a chain, open for writing.

    Bytes go to the files at once, changes of tables wait in memory for :meth:`flush`. After a
    crash at any moment the file opens, holds all that was written before the last flush that
    returned, and of each sector that was written later what it held at some time since. Its
    refcounts are never too low; clusters may be leaked, which ``qemu-img check -r leaks``
    frees. Any number of threads may call; one writes at a time. A host cluster that nothing
    refers to any more is used again only after a flush, or when changes are written because
    there are many: who reads while others write looks up where a piece lies and reads it under
    one lock.

    Args:
        image: The file as it is read. From now on its :meth:`~hatchway.disk.Image.words` are of
            what was written, and its size and header follow.
        file: The same file, locked for writing, which this closes.
        data: The external data file of the image, which this closes; else ``file``.
        read_below: Reads the disk below the file, for what is copied on a write: guest offset
            and size to as many bytes.
        below_bytes: How long that disk is; 0 if there is none.
        changed: Called, while the layer is locked, with the guest range whose words changed.
        settle: Called before host clusters that were given up are used again; returns when
            nobody reads or writes there any more who looked up before where they lie.
        doubted: Called when the file turns out to say that data is where one of its tables
            lies: from then on only this layer, which refuses it, may write to clusters in place.
        cache_bytes: Bound of what is kept of the tables.

    Raises:
        CorruptImageError: If the file is marked as dirty or corrupt, or contradicts the format.
        UnsupportedImageError: If it is no qcow2 file.
    """

    def __init__(
        self,
        image: Image,
        file: WritableFile,
        data: WritableFile | None = None,
        read_below: Callable[[int, int], bytes] = _nothing_below,
        *,
        below_bytes: int = 0,
        changed: Callable[[int, int], None] = _nobody,
        settle: Callable[[], None] = _at_once,
        doubted: Callable[[], None] = _at_once,
        cache_bytes: int = _DEFAULT_CACHE_BYTES,
    ) -> None:
        self._image = image
        self._lock = threading.RLock()
        self._files = OrderedFiles(file, file if data is None else data)
        self._is_closed = False
        self._is_announced = False
        self._bitmaps: DirtyBitmaps | None = None
        header = _header_of(image, file)
        self._guest = GuestClusters(
            header,
            self._files,
            read_below,
            below_bytes,
            cache_bytes,
            changed,
            settle,
            doubted,
            read_snapshots(image.file, header),
        )
        image.become(header)
        image.take_entries_from(self._entries)

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self._guest.header.size

    @property
    def granule_bytes(self) -> int:
        """The smallest piece that it allocates: a cluster or a subcluster."""
        return self._guest.unit

    @property
    def cached_bytes(self) -> int:
        """What is kept of the tables now."""
        return self._guest.pages.num_bytes

    @property
    def noted_bytes(self) -> int:
        """Bytes of a granule of what is to be noted for bitmaps; 0 if nothing is."""
        return 0 if self._bitmaps is None else self._bitmaps.granule_bytes

    def note(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        """Note what somebody else wrote to clusters that are in place.

        Args:
            pieces: Of a bit for each granule of :attr:`noted_bytes`, the lowest of a byte first:
                the byte where each piece begins, and its bytes.
        """
        with self._lock:
            if self._bitmaps is not None:
                self._bitmaps.add(pieces)

    def write(self, offset: int, data: Any) -> None:
        """Write bytes to the disk.

        Args:
            offset: Where.
            data: Anything that can be read as bytes.

        Raises:
            ValueError: If they are not all within the disk, or the layer is closed.
            ImageWriteError: If they could not be written; some of them may have been.
            ImageError: If the file is damaged, or what is below cannot be read.
        """
        view = memoryview(data).cast("B")
        with self._lock:
            if self._begin(offset, len(view)):
                write(self._guest, offset, view)

    def write_zeroes(self, offset: int, size: int, *, may_unmap: bool = True) -> None:
        """Have a range of the disk read as zeros.

        Args:
            offset: Where it begins.
            size: Its bytes.
            may_unmap: Whether the room that it takes in the file may be given up.

        Raises:
            ValueError: As in :meth:`write`.
            ImageError: As in :meth:`write`.
        """
        with self._lock:
            if self._begin(offset, size):
                write_zeroes(self._guest, offset, offset + size, may_unmap=may_unmap)

    def discard(self, offset: int, size: int) -> None:
        """Give up the clusters that lie wholly in a range; they read as zeros from then on.

        Parts of clusters at its ends stay as they are, and so does all of it in a file of
        version 2 that has something below.

        Raises:
            ValueError: As in :meth:`write`.
            ImageError: As in :meth:`write`.
        """
        with self._lock:
            if self._begin(offset, size):
                discard(self._guest, offset, offset + size)

    def resize(self, size: int) -> None:
        """Make the disk shorter, or longer with zeros; all that was written is flushed.

        What the disk below holds past the old end is not seen. Internal snapshots keep their
        size.

        Args:
            size: In bytes: a multiple of 512.

        Raises:
            ValueError: If no disk of the file can have that size, or the layer is closed.
            UnsupportedImageError: If the file is of version 2 and has internal snapshots, or has
                a bitmap that is out of date, or would be too large.
            ImageError: As in :meth:`write`. :attr:`size` is what it is then.
        """
        with self._lock:
            self._check_open()
            self._files.check()
            self._announce()
            if self._bitmaps is not None:
                self._bitmaps.begin_resize(size)
            try:
                resize(self._guest, size)
            finally:
                self._image.become(self._guest.header)
                if self._bitmaps is not None:
                    self._bitmaps.resize()

    def empty(self) -> None:
        """Give up all that the file holds: what lies below is seen, and internal snapshots stay.

        It is on the disk on return. A crash before leaves any of the clusters holes.

        Raises:
            ValueError: If the layer is closed.
            ImageError: As in :meth:`write`.
        """
        with self._lock:
            self._check_open()
            self._files.check()
            self._announce()
            empty(self._guest)

    def set_backing(self, name: str | None, backing_format: str | None) -> None:
        """Have the file name another backing file, or none; all that was written is flushed.

        A crash leaves the old one named, or the new one. What lies there is not looked at: this
        layer reads below as before, and is to be closed.

        Args:
            name: Of the file as it is written in the header; None for none.
            backing_format: What that is: ``"qcow2"`` or ``"raw"``; None without one.

        Raises:
            ValueError: If they do not go together, or the layer is closed.
            UnsupportedImageError: If the header has no room for it, or the external data file
                is to be the whole disk.
            ImageError: As in :meth:`write`.
        """
        raw = checked_name(name, backing_format)
        with self._lock:
            self._check_open()
            self._files.check()
            if raw is not None and self._guest.header.has_raw_data_file:
                path = self._files.tables.path
                raise UnsupportedImageError(
                    f"{path} has an external data file that is to hold the whole disk, and so no "
                    "backing file",
                    path=path,
                )
            self._announce()
            set_backing(self._guest, raw, backing_format)
            header = self._guest.header
            self._guest.header = header._replace(backing_name=name, backing_format=backing_format)
            self._image.become(self._guest.header)

    def flush(self, *, also_data: bool = False) -> None:
        """Return when all that was written survives a crash.

        Args:
            also_data: Whether somebody else wrote to clusters that are in place.

        Raises:
            ValueError: If the layer is closed.
            ImageWriteError: If it may not. Where the host's disk is full, this may be tried
                again; where it failed to sync, every later call says so.
        """
        with self._lock:
            self._check_open()
            self._files.check()
            if also_data:
                self._files.note_data()
            self._guest.commit()

    def words(self, start: int, count: int, granule: int) -> NDArray[np.uint64] | None:
        """As :meth:`hatchway.disk.Image.words`, with what is not yet in the file."""
        with self._lock:
            return self._image.words(start, count, granule)

    def finish(self, *, also_data: bool = False) -> None:
        """Write all, bitmaps included, and be written to no more; :meth:`close` closes the files.

        Args:
            also_data: As in :meth:`flush`.

        Raises:
            ValueError: If the layer is closed.
            ImageWriteError: As in :meth:`flush`; then it may be written to as before.
            ImageError: If the bitmaps cannot be stored; likewise, and the file says that they
                are in use.
        """
        with self._lock:
            self._check_open()
            self._files.check()
            if also_data:
                self._files.note_data()
            self._guest.finish()
            if self._bitmaps is not None:
                self._bitmaps.store()
            self._end()

    def close(self, *, also_data: bool = False) -> None:
        """As :meth:`finish`, if that was not done; and close the files, in any case.

        Raises:
            ImageError: As there.
        """
        with self._lock:
            try:
                if not self._is_closed:
                    self.finish(also_data=also_data)
            finally:
                self._end()
                self._files.close()

    def __enter__(self) -> ActiveLayer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._image.take_entries_from(None)
            self._image.become(self._guest.header)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("the layer is closed")

    def _begin(self, offset: int, size: int) -> bool:
        """Check a range, and see to it that the file may change; whether there is any of it."""
        self._check_open()
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(
                f"{size} bytes at {offset} are not within the disk's {self.size} bytes"
            )
        self._files.check()
        if size:
            self._announce()
            if self._bitmaps is not None:
                self._bitmaps.note(offset, offset + size)
        return size > 0

    def _announce(self) -> None:
        """Have the file say that it is written to, before it is.

        What others noted of a file that only they changed is cleared, as the format demands, and
        bitmaps are marked as in use.
        """
        if self._is_announced:
            return
        header = self._guest.header
        if self._bitmaps is None:
            self._bitmaps = DirtyBitmaps.of(self._guest)
        known = AUTOCLEAR_RAW_DATA_FILE | (0 if self._bitmaps is None else AUTOCLEAR_BITMAPS)
        kept = header.autoclear & known
        if kept != header.autoclear:
            self._files.write_header(kept.to_bytes(8, "big"), AUTOCLEAR_AT)
            self._guest.header = header._replace(autoclear=kept)
            self._image.become(self._guest.header)
        if self._bitmaps is not None:
            self._bitmaps.begin()
        self._is_announced = True

    def _entries(self, table: int, first: int, count: int) -> bytes | None:
        with self._lock:
            return self._guest.tables.read(table, first, count)


def _header_of(image: Image, file: WritableFile) -> Header:
    """The header as it is now that nobody else writes to it."""
    path = file.path
    if image.header is None:
        raise UnsupportedImageError(
            f"{path} is a raw file; only qcow2 files are written to as layers", path=path
        )
    parse = functools.partial(parse_header, path=path, file_bytes=file.file_bytes)
    try:
        header = parse(file.pread(FIRST_BYTES, 0))
    except CutHeaderError:
        header = parse(file.pread(1 << 21, 0))
    if header.is_dirty or header.is_marked_corrupt:
        said = "corrupt" if header.is_marked_corrupt else "dirty: its writer did not close it"
        raise CorruptImageError(
            f"{path} is marked as {said}; before it is written to, run `qemu-img check -r all "
            f"{path}`",
            path=path,
            offset=72,
        )
    return header
