"""Saving memory step by step, each step only what was written since the last one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hatchway.base.errors import CheckpointError
from hatchway.checkpoint.clusters import CLUSTER, gather
from hatchway.checkpoint.directory import HeldDirectory, path_of, steps_of
from hatchway.checkpoint.layout import CRCS_PER_CLUSTER, Layout, crcs_at, end_at, packed
from hatchway.checkpoint.retention import Retention
from hatchway.disk.active import OpenFile, create_filled
from hatchway.memory import DirtyTracker
from hatchway.memory.regions import region_of

# What is copied, summed and written while it is in the processor's caches.
_PIECE_CLUSTERS = 256


class Saved(NamedTuple):
    """What a save did.

    Attributes:
        step: The number of the step.
        path: Its file, a layer of a qcow2 chain.
        num_bytes: Of memory, what was written to it.
        is_full: Whether it holds everything, and needs no step before it.
        seconds: What it took, until it could survive a crash.
    """

    step: int
    path: Path
    num_bytes: int
    is_full: bool
    seconds: float


class IncrementalSnapshot:
    """Saves memory to a directory, step by step: first all of it, then what was written.

    A step is one file, a qcow2 layer upon that of the step before. It has its name once it is
    whole and on the disk: after a crash at any moment there are the steps up to some moment, each
    as it was saved. :func:`restore` brings any of them back, bit for bit, and checks what it
    reads. Any tool that reads qcow2 reads them too.

    What other threads write during :meth:`save` is in this step or in the next one, page by
    page; for a step at one point in time, let them wait for it.

    Args:
        regions: What to save, by name: tensors of torch's on the CPU, arrays, buffers that can
            be written to, ``(address, length)``. A ``state_dict`` of such a model is one. They
            are kept alive. What they share is saved once.
        directory: Where to save; made if there is none. Steps that are there already stay, and
            the next number follows theirs.
        keep: How many of the last steps stay; those before them are made one file now and then,
            in the background, and then only the last of these can be restored. None for all.
        backend: How written pages are found; see :class:`~hatchway.memory.DirtyTracker`.

    Raises:
        TypeError: If a region is of no such kind.
        ValueError: If there is none, or one is empty or not in memory of the host.
        CheckpointError: If the directory cannot be used, or another snapshot saves there.
        MemoryTrackingError: If the memory cannot be tracked.
    """

    def __init__(
        self,
        regions: Mapping[str, Any],
        directory: str | os.PathLike[str],
        *,
        keep: int | None = None,
        backend: str = "auto",
    ) -> None:
        if keep is not None and keep < 1:
            raise ValueError(f"keep is {keep}; it may be 1 or more, or None for all steps")
        if not regions:
            raise ValueError("regions is empty; name what to save")
        named = {name: region_of(source, f"regions[{name!r}]") for name, source in regions.items()}
        self._layout = Layout(named)
        self._tracker = DirtyTracker(list(regions.values()), backend=backend)
        self._directory = HeldDirectory(Path(directory))
        self._lock = threading.Lock()
        self._is_closed = False
        self._last: int | None = None
        self._begun: int | None = None
        # Not saved yet, and not told by the tracker again.
        self._pending: NDArray[np.int64] | None = None
        # Up to the end of the last cluster that they lie in.
        num_rows = -(-self._layout.num_clusters // CRCS_PER_CLUSTER)
        self._crcs: NDArray[np.uint32] = np.zeros(num_rows * CRCS_PER_CLUSTER, "<u4")
        try:
            self._next = max(steps_of(self._directory.path), default=-1) + 1
            self._first = self._next
            self._retention = None if keep is None else Retention(self._directory.path, keep)
            self._tracker.start()
        except BaseException:
            self._directory.close()
            raise

    def __enter__(self) -> IncrementalSnapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Track and hold nothing any more. The steps stay."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                if self._retention is not None:
                    self._retention.end()
                self._tracker.close()
                self._directory.close()

    def save(self, extra: bytes = b"") -> Saved:
        """Save what was written since the last time, or everything the first time.

        When it returns, the step survives a crash. If it fails there is no such step, and the
        next one holds what this one would have.

        Args:
            extra: Kept with the step, and given back when it is restored: the packed state of a
                data loader, say.

        Raises:
            TypeError: If ``extra`` is not bytes.
            ValueError: If it has more than 1 GiB.
            CheckpointError: If it is closed.
            RegionError: If a region is not where it was.
            HatchwayError: What the merging of old steps failed with (see ``keep``). This step was
                not saved then; the next call saves it.
            ImageWriteError: If the file cannot be written: a full disk, say.
        """
        with self._lock:
            if self._is_closed:
                raise CheckpointError("this snapshot is closed; make another one")
            if self._begun == self._next:
                # The save before was cut off, perhaps when its file had the name already.
                path_of(self._directory.path, self._next).unlink(missing_ok=True)
            if self._retention is not None:
                self._retention.look(self._first)
            begun = time.perf_counter()
            is_full = self._last is None
            layout, step = self._layout, self._next
            first, end = packed(step, layout, extra)
            clusters = self._to_save()
            crc_rows: NDArray[np.int64] = np.unique((clusters - 1) // CRCS_PER_CLUSTER)
            begin = end_at(layout.num_clusters)
            stop = begin + len(end) // CLUSTER

            def fill(file: OpenFile, offset: int) -> None:
                file.pwrite(first, offset)
                offset = self._write_memory(file, offset + CLUSTER, clusters)
                crcs = self._crcs.reshape(-1, CRCS_PER_CLUSTER)[crc_rows].tobytes()
                file.pwritev([crcs, end], offset)

            self._begun = step
            create_filled(
                path_of(self._directory.path, step),
                stop * CLUSTER,
                np.concatenate(
                    (
                        [0],
                        clusters,
                        crcs_at(layout.num_clusters) + crc_rows,
                        np.arange(begin, stop),
                    )
                ),
                fill,
                backing=None if self._last is None else path_of(Path(), self._last).name,
                backing_format=None if self._last is None else "qcow2",
                cluster_size=CLUSTER,
            )
            self._next, self._last = step + 1, step  # in this order: a step below is never reused
            self._pending = np.empty(0, np.int64)
            return Saved(
                step,
                path_of(self._directory.path, step),
                len(clusters) * CLUSTER,
                is_full,
                time.perf_counter() - begun,
            )

    def _to_save(self) -> NDArray[np.int64]:
        """The clusters of the next step; they stay pending until it is there."""
        # If this is interrupted, the next step holds everything.
        pending, self._pending = self._pending, None
        dirty = self._tracker.collect()
        if pending is None:
            return np.arange(1, 1 + self._layout.num_clusters)
        found = self._layout.clusters_of(dirty.addresses)
        self._pending = np.union1d(pending, found) if len(pending) else found
        return self._pending

    def _write_memory(self, file: OpenFile, offset: int, clusters: NDArray[np.int64]) -> int:
        """Write clusters from an offset on, and note their checksums; where they end."""
        staged = bytearray(_PIECE_CLUSTERS * CLUSTER)
        view, sources = memoryview(staged), self._layout.sources_of(clusters)
        for first in range(0, len(clusters), _PIECE_CLUSTERS):
            some = slice(first, first + _PIECE_CLUSTERS)
            # What the checksum is of is what is written, whatever happens to the memory.
            crcs = gather(sources[some], staged)
            self._crcs[clusters[some] - 1] = crcs
            file.pwrite(view[: len(crcs) * CLUSTER], offset)
            offset += len(crcs) * CLUSTER
        return offset
