"""Making an empty qcow2 file."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hatchway.disk.active.new_header import packed_header
from hatchway.disk.active.storage import OpenFile
from hatchway.disk.errors import ImageError, ImageWriteError
from hatchway.disk.fields import COPIED
from hatchway.disk.header import MAX_BACKING_NAME_BYTES, MAX_L1_BYTES
from hatchway.disk.refcount_bits import packed_counts

_SECTOR = 512
_PIECE_BYTES = 1 << 20


def create(
    path: str | os.PathLike[str],
    size: int,
    *,
    backing: str | None = None,
    backing_format: str | None = None,
    cluster_size: int = 65536,
    extended_l2: bool = False,
    compression: Literal["zlib", "zstd"] = "zlib",
    refcount_bits: int = 16,
) -> None:
    """Make an empty qcow2 file of version 3.

    It is there whole and synced when this returns, or not at all: it is written under
    another name beside its own. A file that is there already is left as it is.

    Args:
        path: Of the new file.
        size: The guest's disk, in bytes: a multiple of 512.
        backing: The name of its backing file as it is written in the header: relative to the
            directory of ``path``, or absolute. It is not looked at.
        backing_format: What that is; needed with ``backing``, since a guess can be led astray
            by what a guest writes to a raw disk.
        cluster_size: In bytes: a power of two from 512 to 2 MiB.
        extended_l2: Whether each cluster has 32 subclusters; for clusters of 16 KiB and more.
        compression: How clusters are compressed that QEMU writes so.
        refcount_bits: Of each refcount: a power of two from 1 to 64.

    Raises:
        ValueError: If an argument is not one of those, or they do not go together.
        ImageError: If the file is there already.
        ImageWriteError: If it cannot be written.
    """
    _lay_down(
        Path(path),
        size,
        np.empty(0, np.int64),
        lambda file, offset: None,
        backing=backing,
        backing_format=backing_format,
        cluster_size=cluster_size,
        extended_l2=extended_l2,
        compression=compression,
        refcount_bits=refcount_bits,
    )


def create_filled(
    path: str | os.PathLike[str],
    size: int,
    clusters: NDArray[np.int64],
    fill: Callable[[OpenFile, int], None],
    *,
    backing: str | None = None,
    backing_format: str | None = None,
    cluster_size: int = 4096,
) -> None:
    """Make a qcow2 file of version 3 that holds some clusters of the disk, in one go.

    As :func:`create`: there whole and synced, or not at all. The clusters lie one behind the
    other at the end of the file.

    Args:
        path: Of the new file.
        size: As of :func:`create`.
        clusters: Which clusters of the guest's disk it holds: their numbers, ascending.
        fill: Writes all their bytes to a file, from an offset on.
        backing: As of :func:`create`.
        backing_format: As there.
        cluster_size: As there.

    Raises:
        ValueError: As of :func:`create`, or if the clusters do not ascend within the disk.
        ImageError: If the file is there already.
        ImageWriteError: If it cannot be written.
    """
    if len(clusters) and not (
        clusters[0] >= 0
        and (clusters[1:] > clusters[:-1]).all()
        and clusters[-1] * cluster_size < size
    ):
        raise ValueError(f"clusters must ascend, within a disk of {size} bytes")
    _lay_down(
        Path(path),
        size,
        clusters,
        fill,
        backing=backing,
        backing_format=backing_format,
        cluster_size=cluster_size,
        extended_l2=False,
        compression="zlib",
        refcount_bits=16,
    )


def _lay_down(
    target: Path,
    size: int,
    clusters: NDArray[np.int64],
    fill: Callable[[OpenFile, int], None],
    *,
    backing: str | None,
    backing_format: str | None,
    cluster_size: int,
    extended_l2: bool,
    compression: str,
    refcount_bits: int,
) -> None:
    _check(size, cluster_size, extended_l2, refcount_bits)
    if compression not in ("zlib", "zstd"):
        raise ValueError(f"compression must be 'zlib' or 'zstd', not {compression!r}")
    name = checked_name(backing, backing_format)
    entry_bytes = 16 if extended_l2 else 8
    l1_size = max(1, -(-size * entry_bytes // cluster_size**2))
    if l1_size * 8 > MAX_L1_BYTES:
        raise ValueError(
            f"a disk of {size} bytes needs an L1 table of {l1_size} entries at clusters of "
            f"{cluster_size} bytes; {MAX_L1_BYTES // 8} are possible: choose larger clusters"
        )
    per_table = cluster_size // entry_bytes
    tables, table_of = np.unique(clusters // per_table, return_inverse=True)
    num_l1 = -(-l1_size * 8 // cluster_size)
    plan = _Plan(cluster_size, num_l1 + len(tables) + len(clusters), refcount_bits)
    header = packed_header(
        cluster_size=cluster_size,
        size=size,
        l1_offset=plan.l1 * cluster_size,
        l1_size=l1_size,
        refcount_table_offset=cluster_size,
        refcount_table_clusters=plan.num_tables,
        refcount_bits=refcount_bits,
        has_subclusters=extended_l2,
        compression=compression,
        backing_name=name,
        backing_format=backing_format,
    )
    if len(header) > cluster_size:
        raise ValueError(
            f"the header takes {len(header)} bytes with the backing file's name {backing!r}; a "
            f"cluster has {cluster_size}: choose larger clusters or a shorter name"
        )
    first_table = plan.l1 + num_l1
    first_data = first_table + len(tables)
    with _new_file(target) as file:
        file.pwrite(header, 0)
        for start, counts in plan.refcounts():
            file.pwrite(counts, start)
        # What is not written here, as the L1 table of an empty file, is a hole.
        file.truncate(plan.num_clusters * cluster_size)
        if len(clusters):
            l1 = np.zeros(int(tables[-1]) + 1, ">u8")
            l1[tables] = _entries(first_table, len(tables), cluster_size)
            file.pwrite(l1.tobytes(), plan.l1 * cluster_size)
            l2 = np.zeros((len(tables), per_table), ">u8")
            l2[table_of, clusters % per_table] = _entries(first_data, len(clusters), cluster_size)
            file.pwrite(l2, first_table * cluster_size)
            fill(file, first_data * cluster_size)
        file.sync()


def _entries(first: int, num: int, cluster_size: int) -> NDArray[np.uint64]:
    """Entries of a table for host clusters in a row, which nobody else refers to."""
    offsets: NDArray[np.uint64] = np.arange(first, first + num, dtype=np.uint64)
    offsets *= np.uint64(cluster_size)
    entries: NDArray[np.uint64] = offsets | np.uint64(COPIED)
    return entries


class _Plan:
    """Where the tables of a new file lie: refcount table, refcount blocks, L1 table, the rest."""

    def __init__(self, cluster_size: int, num_others: int, refcount_bits: int) -> None:
        self._cluster_size, self._bits = cluster_size, refcount_bits
        self._per_block = cluster_size * 8 // refcount_bits
        self.num_tables = self._num_blocks = 1
        while True:
            self.num_clusters = 1 + self.num_tables + self._num_blocks + num_others
            blocks = -(-self.num_clusters // self._per_block)
            tables = -(-blocks * 8 // cluster_size)
            if (tables, blocks) == (self.num_tables, self._num_blocks):
                break
            self.num_tables, self._num_blocks = tables, blocks
        self.l1 = 1 + self.num_tables + self._num_blocks

    def refcounts(self) -> Iterator[tuple[int, bytes]]:
        """The refcount table and blocks, in pieces: where each lies, and its bytes."""
        first = 1 + self.num_tables
        blocks = np.arange(first, first + self._num_blocks, dtype=np.uint64)
        yield self._cluster_size, (blocks * np.uint64(self._cluster_size)).astype(">u8").tobytes()
        for rank in range(self._num_blocks):
            used = min(self._per_block, self.num_clusters - rank * self._per_block)
            at = (first + rank) * self._cluster_size
            most = _PIECE_BYTES * 8 // self._bits
            for start in range(0, used, most):
                ones = np.zeros(-(-min(most, used - start) // 8) * 8, np.uint64)
                ones[: min(most, used - start)] = 1
                yield at + start * self._bits // 8, packed_counts(ones, self._bits)


def _check(size: int, cluster_size: int, extended_l2: bool, refcount_bits: int) -> None:
    if size < 0 or size % _SECTOR or size >= 1 << 63:
        raise ValueError(f"size must be a multiple of {_SECTOR}, from 0 to 2**63, not {size}")
    if cluster_size not in (1 << bits for bits in range(9, 22)):
        raise ValueError(
            f"cluster_size must be a power of two from 512 to 2097152, not {cluster_size}"
        )
    if extended_l2 and cluster_size < 1 << 14:
        raise ValueError(f"extended_l2 needs a cluster_size of at least 16384, not {cluster_size}")
    if refcount_bits not in (1, 2, 4, 8, 16, 32, 64):
        raise ValueError(f"refcount_bits must be a power of two from 1 to 64, not {refcount_bits}")


def checked_name(backing: str | None, backing_format: str | None) -> bytes | None:
    """The name of a backing file as it lies in a header; None without one.

    Raises:
        ValueError: If it cannot be one, or is not given with its format.
    """
    if backing is None:
        if backing_format is not None:
            raise ValueError(f"backing_format is {backing_format!r}, and there is no backing")
        return None
    if backing_format not in ("qcow2", "raw"):
        raise ValueError(f"backing_format must be 'qcow2' or 'raw', not {backing_format!r}")
    name = os.fsencode(backing)
    if not name or len(name) > MAX_BACKING_NAME_BYTES or b"\0" in name:
        raise ValueError(
            f"backing must be a name of 1 to {MAX_BACKING_NAME_BYTES} bytes without a NUL, not "
            f"{backing!r}"
        )
    return name


@contextlib.contextmanager
def _new_file(target: Path) -> Iterator[OpenFile]:
    """A file to be filled, which has its name only when that was done."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except OSError as error:
        raise _not_made(target, error) from error
    try:
        file = OpenFile(temporary, lock=False)
        try:
            yield file
        finally:
            file.close()
        try:
            # A link, unlike a renaming, does not replace what is there.
            os.link(temporary, target)
            try:
                sync_directory(target.parent)
            except BaseException:
                os.unlink(target)
                raise
        except OSError as error:
            raise _not_made(target, error) from error
    finally:
        os.unlink(temporary)


def _not_made(target: Path, error: OSError) -> ImageError:
    if isinstance(error, FileExistsError):
        return ImageError(
            f"{target} is there already, and is left as it is; choose another name, or remove it",
            path=target,
        )
    return ImageWriteError(
        f"{target} cannot be made: {error.strerror}", path=target, errno=error.errno
    )


def sync_directory(directory: Path) -> None:
    """Return when the names in a directory survive a crash."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
