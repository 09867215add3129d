"""Bringing a step back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hatchway.base.errors import CheckpointError, DiskError
from hatchway.checkpoint.clusters import CLUSTER, checksums
from hatchway.checkpoint.directory import path_of, steps_of
from hatchway.checkpoint.errors import DamagedCheckpointError
from hatchway.checkpoint.layout import (
    CRC_BYTES,
    Description,
    Place,
    crcs_at,
    damaged,
    read_description,
)
from hatchway.disk import Chain
from hatchway.memory.mappings import first_unmapped
from hatchway.memory.regions import Region, bytes_at, pages_of, region_of

__all__ = ["Restored", "restore", "steps_of"]

_PIECE_BYTES = 4 << 20


class Restored(NamedTuple):
    """What was brought back.

    Attributes:
        step: The number of the step.
        extra: What was given when it was saved.
        skipped: Later steps that are damaged, each with what is wrong with it.
    """

    step: int
    extra: bytes
    skipped: list[tuple[int, str]]


def restore(
    directory: str | os.PathLike[str], into: Mapping[str, Any], *, step: int | None = None
) -> Restored:
    """Bring memory back to what it was when a step was saved, bit for bit.

    All that is read is compared with the checksums that were saved with it.

    Args:
        directory: That of an :class:`~hatchway.checkpoint.IncrementalSnapshot`.
        into: Where to, by the names that were saved: all of them or some, each of the size that
            it had. Any process will do, at any addresses. Bytes are brought back as they lay in
            memory, those between the items of a view included: dtypes and strides must be those
            that were saved.
        step: Which one; None for the last that is not damaged.

    Raises:
        CheckpointError: If there is no such step, or names or sizes are others.
        DiskError: If a file of the step must not be read.
        DamagedCheckpointError: If the step, or every one, is damaged. What it was restored into
            is in part what it was and in part what was saved then.
        TypeError: If something cannot be restored into.
        ValueError: Likewise.
    """
    root = Path(directory)
    steps = steps_of(root)
    if not steps:
        raise CheckpointError(f"{directory} holds no steps")
    if step is not None and step not in steps:
        raise CheckpointError(
            f"{directory} holds no step {step}; it holds {steps[0]} to {steps[-1]}"
        )
    skipped: list[tuple[int, str]] = []
    for one in reversed(steps) if step is None else [step]:
        try:
            return Restored(one, _restore(path_of(root, one), one, into), skipped)
        except (DamagedCheckpointError, DiskError) as error:
            # Not damaged, perhaps: a merge took a file away while the chain was being opened.
            if not set(steps) <= set(steps_of(root)):
                return restore(root, into, step=step)
            is_forbidden = isinstance(error.__cause__, PermissionError)
            if step is not None or one == steps[0] or is_forbidden:
                raise
            skipped.append((one, str(error)))
    raise AssertionError  # the first step raises, or returns


def _restore(path: Path, step: int, into: Mapping[str, Any]) -> bytes:
    with Chain(path) as chain:
        found = read_description(chain, path)
        if found.step != step:
            raise DamagedCheckpointError(
                f"{path} is step {found.step}: it was renamed, or is another's", path=path
            )
        targets = {
            name: (_place(found, name, path), region_of(target, f"into[{name!r}]"))
            for name, target in into.items()
        }
        for name, (place, region) in targets.items():
            if region.end - region.start != place.num_bytes:
                raise CheckpointError(
                    f"into[{name!r}] has {region.end - region.start} bytes; {path} has "
                    f"{place.num_bytes} of that name"
                )
            _check_room(region, into[name], name)
        for place, region in targets.values():
            _read(chain, path, found, place, region.start)
        return found.extra


def _place(found: Description, name: str, path: Path) -> Place:
    if name not in found.regions:
        known = ", ".join(sorted(found.regions)[:8])
        raise CheckpointError(f"{path} holds nothing named {name!r}; it holds {known} ...")
    return found.regions[name]


def _check_room(region: Region, target: Any, name: str) -> None:
    """Raise where writing would crash the process, or change what must not change."""
    if isinstance(target, np.ndarray) and not target.flags.writeable:
        raise ValueError(f"into[{name!r}] is an array that cannot be written to")
    if first_unmapped(pages_of([region])) is not None:
        raise ValueError(
            f"into[{name!r}] is memory from {region.start:#x} to {region.end:#x}, of which some is "
            "not mapped"
        )


def _read(chain: Chain, path: Path, found: Description, place: Place, address: int) -> None:
    """Read a region to an address, and check it."""
    end = place.offset + place.num_bytes
    limit = crcs_at(found.num_clusters) * CLUSTER
    if place.offset < CLUSTER or end > limit:
        raise damaged(path, "its description")
    for start in range(place.offset // CLUSTER * CLUSTER, end, _PIECE_BYTES):
        stop = min(start + _PIECE_BYTES, -(-end // CLUSTER) * CLUSTER)
        data = memoryview(chain.read_at(start, stop - start))
        at = crcs_at(found.num_clusters) * CLUSTER + (start // CLUSTER - 1) * CRC_BYTES
        wanted = np.frombuffer(chain.read_at(at, (stop - start) // CLUSTER * CRC_BYTES), "<u4")
        if not np.array_equal(checksums(data), wanted):
            raise damaged(path, f"what lies at {start:#x} to {stop:#x}")
        low, high = max(start, place.offset), min(stop, end)
        target = bytes_at(address + low - place.offset, high - low)
        target[:] = data[low - start : high - start]
