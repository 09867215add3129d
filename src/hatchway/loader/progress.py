"""How far a pass has come: which positions were delivered, and what the sampler yielded. Pure."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hatchway.loader.errors import StateError


class Progress:
    """The ranks (positions, from 0 in their pass) that were delivered, as few numbers.

    Args:
        ranges: Half-open ranges of ranks that were delivered, in order.
        num_homes: How many batches of keys the sampler has yielded.
        digest: The checksum of these keys; None where they are no plain ints.

    Attributes:
        num_homes: As above.
        digest: As above.
    """

    def __init__(
        self,
        ranges: Iterable[tuple[int, int]] = (),
        num_homes: int = 0,
        digest: int | None = 0,
    ) -> None:
        self.num_homes = num_homes
        self.digest = digest
        self._end = 0
        self._missing: set[int] = set()
        for begin, end in ranges:
            self._missing.update(range(self._end, begin))
            self._end = end

    @property
    def end(self) -> int:
        """One more than the last rank that was delivered."""
        return self._end

    @property
    def lowest(self) -> int:
        """The first rank that was not delivered."""
        return min(self._missing, default=self._end)

    @property
    def num_delivered(self) -> int:
        """How many ranks were delivered."""
        return self._end - len(self._missing)

    @property
    def is_prefix(self) -> bool:
        """Whether what was delivered are the first ranks, without a gap."""
        return not self._missing

    def deliver(self, positions: NDArray[np.int64], start: int = 0) -> None:
        """Note that these were delivered, each for the first time; rank 0 is at ``start``."""
        first, last = int(positions[0]) - start, int(positions[-1]) - start
        if first == self._end and last - first + 1 == len(positions):
            self._end = last + 1  # the usual case, once a batch
            return
        ranks = positions - start
        end = max(self._end, int(ranks.max()) + 1)
        self._missing.update(range(self._end, end))
        self._missing.difference_update(ranks.tolist())
        self._end = end

    def take_back(self, ranks: NDArray[np.int64]) -> None:
        """Note that these ranks, delivered last, did not arrive."""
        self._missing.update(ranks.tolist())

    def delivered_of(self, first: int, count: int) -> NDArray[np.int64]:
        """Those of the ranks [first, first + count) that were delivered."""
        ranks = range(first, min(first + count, self._end))
        return np.array([rank for rank in ranks if rank not in self._missing], np.int64)

    def ranges(self) -> list[tuple[int, int]]:
        """Half-open ranges of the ranks that were delivered, in order."""
        found, begin = [], 0
        for missing in itertools.chain(sorted(self._missing), (self._end,)):
            if missing > begin:
                found.append((begin, missing))
            begin = missing + 1
        return found

    def read(self, keys: NDArray[np.int64] | None) -> None:
        """The sampler yielded a batch of keys; None if they are no plain ints."""
        self.num_homes += 1
        self.digest = extended(self.digest, keys)


def extended(digest: int | None, keys: NDArray[np.int64] | None) -> int | None:
    """The checksum of what was read, and of these keys after it."""
    if digest is None or keys is None:
        return None
    # With their number: batches of other sizes are another order.
    return zlib.crc32(keys.data, zlib.crc32(len(keys).to_bytes(8, "little"), digest))


def plain(keys: list[Any]) -> NDArray[np.int64] | None:
    """Keys as an array; None unless they are ints of at most 64 bits."""
    if set(map(type, keys)) - {int}:
        return None
    try:
        return np.array(keys, np.int64)
    except OverflowError:
        return None


def trace(keys: list[Any]) -> NDArray[np.int64] | None:
    """What the digest is made of: keys that are ints, or what items of a stream carry; or None."""
    indices = plain(keys)
    if indices is None:
        indices = plain([getattr(key, "stream_checksum", None) for key in keys])
    return indices


def read_again(
    batches: Iterator[list[Any]], before: Progress
) -> tuple[list[list[Any]], Progress, int]:
    """Read what the sampler had yielded when a pass was saved.

    Args:
        batches: What it yields now, from its beginning, as lists of keys.
        before: How far the pass had come.

    Returns:
        The batches from the first on that was not delivered as a whole; the progress
        that is made by leaving out those before; and how many samples these held.

    Raises:
        StateError: If the sampler yields something else.
    """
    digest: int | None = 0
    num_read = num_skipped = 0
    left: list[list[Any]] = []
    progress = Progress(before.ranges())
    for keys in itertools.islice(batches, before.num_homes):
        indices = trace(keys)
        digest = extended(digest, indices)
        num_read += len(keys)
        if num_read <= before.lowest:
            num_skipped = num_read
            progress.read(indices)
        else:
            left.append(keys)
    if num_read < before.end or digest != before.digest:
        raise StateError(
            "the sampler does not yield what it yielded when the state was saved (its first "
            f"{before.num_homes} batches differ); seed it with a torch.Generator that is "
            "passed as generator=, or give it state_dict() and load_state_dict()"
        )
    return left, progress, num_skipped
