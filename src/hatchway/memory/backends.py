"""The ways to find out what was written: one interface, and which of them there are."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hatchway.memory.errors import BackendUnavailableError
from hatchway.memory.mappings import check_mapped
from hatchway.memory.ranges import Ranges, empty, union
from hatchway.memory.regions import PAGE_BYTES, bytes_at
from hatchway.memory.watching import WATCHED

_DIGEST_BYTES = 16


class Backend(Protocol):
    """One way; what is written from its beginning on is told."""

    name: str

    def take(self, pages: Ranges) -> Ranges:
        """What was written of some pages since they were last taken, and watch them anew.

        Raises:
            RegionError: If nothing is mapped there any more. Nothing is lost then.
        """

    def close(self) -> None:
        """Watch no longer."""


class PagemapScan:
    """Asynchronous write-protection, and one call that gets and renews it; Linux 6.7.

    After OoH (arXiv:2202.13483), whose EPML does in hardware what this does in the kernel.

    Args:
        pages: What is watched.

    Raises:
        BackendUnavailableError: If this kernel cannot.
        RegionError: If the pages are not there.
    """

    name = "pagemap_scan"

    def __init__(self, pages: Ranges) -> None:
        self._watcher = WATCHED.join(pages)

    def take(self, pages: Ranges) -> Ranges:
        """As in :class:`Backend`: each page in one step with all writers."""
        return WATCHED.take(self._watcher, pages)

    def close(self) -> None:
        """As in :class:`Backend`."""
        WATCHED.leave(self._watcher)


class Hashes:
    """A digest of each page, compared with the last one; needs nothing of the kernel.

    It costs the program nothing, and a collection reads everything. What was changed and changed
    back is not dirty; who copies the pages afterwards must keep writers out from the collection
    to the copy.

    Args:
        pages: What is watched.

    Raises:
        RegionError: If the pages are not there.
    """

    name = "hash"

    def __init__(self, pages: Ranges) -> None:
        self._pages = pages
        before = np.cumsum((pages[:, 1] - pages[:, 0]) // PAGE_BYTES)
        self._firsts = np.concatenate(([0], before))
        self._digests = np.zeros(int(self._firsts[-1]), f"V{_DIGEST_BYTES}")
        self.take(pages)

    def take(self, pages: Ranges) -> Ranges:
        """As in :class:`Backend`, by what the pages hold."""
        check_mapped(pages)
        return union(empty(), *(self._take(start, end) for start, end in pages.tolist()))

    def _take(self, start: int, end: int) -> Ranges:
        run = int(np.searchsorted(self._pages[:, 1], start, side="right"))
        first = int(self._firsts[run]) + (start - int(self._pages[run, 0])) // PAGE_BYTES
        kept = self._digests[first : first + (end - start) // PAGE_BYTES]
        found = digests(start, end)
        changed = np.flatnonzero(found != kept) * PAGE_BYTES + start
        kept[:] = found
        return union(np.stack((changed, changed + PAGE_BYTES), axis=1).astype(np.int64))

    def close(self) -> None:
        """As in :class:`Backend`."""


def digests(start: int, end: int) -> NDArray[np.void]:
    """A digest of each page from one address to another."""
    view = bytes_at(start, end - start)
    parts = (
        blake2b(view[at : at + PAGE_BYTES], digest_size=_DIGEST_BYTES).digest()
        for at in range(0, end - start, PAGE_BYTES)
    )
    return np.frombuffer(b"".join(parts), f"V{_DIGEST_BYTES}")


# The best first.
BACKENDS: dict[str, Callable[[Ranges], Backend]] = {"pagemap_scan": PagemapScan, "hash": Hashes}


def backend_of(name: str, pages: Ranges) -> Backend:
    """Watch pages.

    Args:
        name: Of a backend; ``"auto"`` for the first that this machine has.
        pages: What to watch.

    Raises:
        BackendUnavailableError: If this machine does not have it.
        RegionError: If the pages are not there, or somebody else watches them.
        ValueError: If there is no backend of the name.
    """
    if name != "auto":
        if name not in BACKENDS:
            known = ", ".join(map(repr, BACKENDS))
            raise ValueError(f"backend is {name!r}; it may be 'auto', {known}")
        return BACKENDS[name](pages)
    for make in list(BACKENDS.values())[:-1]:
        try:
            return make(pages)
        except BackendUnavailableError:
            continue
    return Hashes(pages)
