"""Reading records out of an image, as a dataset."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from hatchway.disk.chain import Chain
from hatchway.disk.errors import RecordsError
from hatchway.disk.records.layout import (
    HEADER_BYTES,
    PAGE_BYTES,
    PLACES_A_PAGE,
    aligned,
    parse_layout,
    unpack_page,
)

_DEFAULT_CACHE_BYTES = 16 << 20
_DEFAULT_RECORD_BYTES = 1 << 30
# What a page takes when it is kept, its object's own fields included.
_KEPT_PAGE_BYTES = PAGE_BYTES + 512
# Records are read at once up to this many bytes, and over gaps up to that many.
_RUN_BYTES = 1 << 20
_GAP_BYTES = 4096


class Records(Sequence[bytes]):
    """The records of an image: a map-style dataset.

    Which layer of a chain is opened decides which version of the dataset it is. Opening reads
    one sector; the table of the records is read page by page, as it is needed. Any number of
    threads may read; a forked process reads on; a pickled one is opened anew.

    Args:
        source: The image, or a chain, which whoever gives it closes.
        cache_bytes: Bound of what is kept of the table.
        most_record_bytes: No record is larger; one that is said to be is refused.
        **options: Of :class:`~hatchway.disk.Chain`, where ``source`` is an image.

    Attributes:
        chain: What is read.

    Raises:
        ImageError: If the image cannot be opened.
        RecordsError: If it holds no records, or a damaged header.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Chain,
        *,
        cache_bytes: int = _DEFAULT_CACHE_BYTES,
        most_record_bytes: int = _DEFAULT_RECORD_BYTES,
        **options: Any,
    ) -> None:
        if cache_bytes < 0:
            raise ValueError(f"cache_bytes must be at least 0, not {cache_bytes}")
        if most_record_bytes < 0:
            raise ValueError(f"most_record_bytes must be at least 0, not {most_record_bytes}")
        if isinstance(source, Chain) and options:
            raise TypeError(f"a chain is opened already: {', '.join(options)} cannot be given")
        self._bounds = {"cache_bytes": cache_bytes, "most_record_bytes": most_record_bytes}
        self._most_record_bytes = most_record_bytes
        self._most_pages = max(1, cache_bytes // _KEPT_PAGE_BYTES)
        self._pages: dict[int, memoryview] = {}
        self._lock = threading.Lock()
        self._is_owner = not isinstance(source, Chain)
        self.chain = source if isinstance(source, Chain) else Chain(source, **options)
        self._path = self.chain.images[-1].path
        try:
            header = self.chain.read_at(0, HEADER_BYTES)
            self._layout = parse_layout(header, self._path, self.chain.size)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return self._layout.num_records

    def __getitem__(self, index: Any) -> Any:
        """The bytes of a record; a list of them for a slice.

        Raises:
            IndexError: If there is no such record.
            RecordsError: If the table is damaged there.
            ImageError: If a file of the chain is.
        """
        if isinstance(index, slice):
            return self.__getitems__(list(range(*index.indices(len(self)))))
        start, end = self._extent(index)
        return self._read(start, end)

    def __getitems__(self, indices: Sequence[int]) -> list[bytes]:
        """The bytes of several records, in the order of ``indices``.

        They are read in the order in which they lie, and those that lie together at once.

        Raises:
            IndexError: As for one of them.
            RecordsError: As for one of them.
            ImageError: As for one of them.
        """
        extents = sorted((*self._extent(index), rank) for rank, index in enumerate(indices))
        found = [b""] * len(extents)
        for start, end, members in _runs(extents):
            read = self._read(start, end)
            if len(members) == 1:
                found[members[0][2]] = read
                continue
            for first, last, rank in members:
                found[rank] = read[first - start : last - start]
        return found

    def close(self) -> None:
        """Close the chain, if it was opened here."""
        if self._is_owner:
            self.chain.close()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.chain, self._bounds, self._is_owner)

    def _extent(self, index: int) -> tuple[int, int]:
        """Where a record begins and ends."""
        layout = self._layout
        rank = index + layout.num_records if index < 0 else index
        if not 0 <= rank < layout.num_records:
            raise IndexError(f"there is no record {index}; {self._path} holds {layout.num_records}")
        page, at = divmod(rank, PLACES_A_PAGE)
        places = self._places(page)
        start = aligned(places[at], layout.alignment)
        end = places[at + 1] if at + 1 < PLACES_A_PAGE else self._places(page + 1)[0]
        if not layout.first <= start <= end <= layout.end:
            raise RecordsError(
                f"record {rank} of {self._path} is said to lie from {start:#x} to {end:#x}; "
                f"records lie from {layout.first:#x} to {layout.end:#x}",
                path=self._path,
                offset=start,
            )
        if end - start > self._most_record_bytes:
            raise RecordsError(
                f"record {rank} of {self._path} has {end - start} bytes; "
                f"{self._most_record_bytes} are allowed, allow more (most_record_bytes=)",
                path=self._path,
                offset=start,
            )
        return start, end

    def _places(self, page: int) -> memoryview:
        """A page of the table."""
        places = self._pages.get(page)
        if places is None:
            raw = self.chain.read_at(self._layout.page_at(page), PAGE_BYTES)
            places = unpack_page(raw, page, self._layout, self._path)
            with self._lock:
                while len(self._pages) >= self._most_pages:
                    del self._pages[next(iter(self._pages))]
                self._pages[page] = places
        return places

    def _read(self, start: int, end: int) -> bytes:
        read = self.chain.read_at(start, end - start)
        if len(read) < end - start:
            raise RecordsError(
                f"{self._path} ends at {self.chain.size:#x}, within a record; it was closed, or "
                "cut since it was opened",
                path=self._path,
                offset=start,
            )
        return read


def _runs(
    extents: Sequence[tuple[int, int, int]],
) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
    """Extents that lie together: where they begin and end, and those within.

    Args:
        extents: Beginning, end and anything else of each, sorted.
    """
    start = end = 0
    members: list[tuple[int, int, int]] = []
    for extent in extents:
        first, last, _ = extent
        if members and (first > end + _GAP_BYTES or last - start > _RUN_BYTES):
            yield start, end, members
            members = []
        if not members:
            start, end = first, last
        end = max(end, last)
        members.append(extent)
    if members:
        yield start, end, members


def _open(chain: Chain, bounds: dict[str, int], is_owner: bool) -> Records:
    records = Records(chain, **bounds)
    records._is_owner = is_owner
    return records
