"""Records read back as they were written, and as they were before an append that was cut."""

from __future__ import annotations

import os
import pickle
import random
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatchway.disk import (
    Chain,
    ImageError,
    RawFile,
    Records,
    RecordsError,
    append_records,
    write_records,
)
from hatchway.disk.records.layout import HEADER_BYTES, PLACES_A_PAGE, Layout
from tests.crash import Entry, after_crash, apply

RECORDS = st.lists(st.binary(max_size=3000), max_size=60)
ALIGNMENTS = st.sampled_from([1, 8, 512, 4096])


class Memory:
    """A disk in memory that notes each write and flush."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.log: list[Entry] = []

    def write_at(self, offset: int, data: bytes) -> None:
        self.log.append((offset, data))
        apply(self.content, offset, data)

    def flush(self) -> None:
        self.log.append(None)

    def read_at(self, offset: int, size: int) -> bytes:
        return bytes(self.content[offset : offset + size])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records") / "one.raw"


@pytest.fixture
def thousand(path: Path) -> Path:
    """1,000 records, on two pages of the table: each number as four bytes."""
    path.unlink(missing_ok=True)
    with RawFile(path) as target:
        write_records(target, [struct.pack("<I", number) for number in range(1000)])
    return path


@given(parts=st.lists(RECORDS, min_size=1, max_size=4), alignment=ALIGNMENTS)
def test_records_read_back_as_they_were_written(
    parts: list[list[bytes]], alignment: int, path: Path
) -> None:
    path.unlink(missing_ok=True)
    with RawFile(path) as target:
        assert write_records(target, iter(parts[0]), alignment=alignment) == len(parts[0])
        for part in parts[1:]:
            append_records(target, part)
    expected = [record for part in parts for record in part]
    with Records(path) as records:
        assert len(records) == len(expected)
        assert list(records) == expected
        indices = list(range(len(expected))) * 2
        random.Random(0).shuffle(indices)
        assert records.__getitems__(indices) == [expected[index] for index in indices]
        assert records[::-3] == expected[::-3]
        assert all(records._extent(index)[0] % alignment == 0 for index in range(len(expected)))


@pytest.mark.parametrize("step", [1, 509, 510, 511, 512, 1022, 5000])
def test_tables_of_several_pages_grow(step: int, path: Path) -> None:
    path.unlink(missing_ok=True)
    expected = [os.urandom(number % 7) for number in range(2100)]
    with RawFile(path) as target:
        write_records(target, expected[:505])
        for start in range(505, 530, step) if step == 1 else range(505, 2100, step):
            append_records(target, expected[start : start + step])
    end = 530 if step == 1 else 2100
    with Records(path, cache_bytes=0) as records:
        assert list(records) == expected[:end]
        assert records[-1] == expected[end - 1]


@given(
    held=st.integers(0, 1100),
    more=st.lists(st.binary(max_size=2000), min_size=1, max_size=600),
    place=st.randoms(use_true_random=False),
)
def test_an_append_that_is_cut_short_loses_nothing(
    held: int, more: list[bytes], place: random.Random, path: Path
) -> None:
    before = [b"%d" % number for number in range(held)]
    disk = Memory()
    write_records(disk, before, capacity=2000)
    start, disk.log = bytes(disk.content), []
    append_records(disk, more)
    for at in {place.randrange(len(disk.log) + 1), len(disk.log) - 1, len(disk.log)}:
        # Sparse: what a crash left may end before the table does.
        path.write_bytes(after_crash(start, disk.log, at, place).ljust(len(disk.content), b"\0"))
        with Records(path) as records:
            assert list(records) in (before, before + more)
            if at == len(disk.log):
                assert len(records) == held + len(more)


def test_records_that_are_written_over_are_whole_or_gone(path: Path) -> None:
    disk = Memory()
    write_records(disk, [b"old"] * 50)
    start, disk.log = bytes(disk.content), []
    write_records(disk, [b"newer"] * 70)
    for at in range(len(disk.log) + 1):
        path.write_bytes(after_crash(start, disk.log, at, random.Random(at)))
        try:
            with Records(path) as records:
                assert list(records) in ([b"old"] * 50, [b"newer"] * 70)
        except RecordsError as error:
            assert "holds no records" in str(error)  # noqa: PT017


def test_an_append_writes_only_what_is_new() -> None:
    disk = Memory()
    write_records(disk, [b"x" * 1000] * 5000)
    disk.log = []
    append_records(disk, [b"y" * 1000] * 10)
    written = sum(len(entry[1]) for entry in disk.log if entry is not None)
    assert written == 10 * 1000 + 10 * 8 + HEADER_BYTES


def test_a_table_is_read_as_it_is_needed(path: Path) -> None:
    path.unlink(missing_ok=True)
    count = 100 * PLACES_A_PAGE
    with RawFile(path) as target:
        write_records(target, (b"%d" % number for number in range(count)))
    with Records(path, cache_bytes=20_000) as records:
        assert not records._pages
        assert records[count // 2] == b"%d" % (count // 2)
        assert len(records._pages) <= 2
        assert records.__getitems__(range(0, count, 100)) == [
            b"%d" % n for n in range(0, count, 100)
        ]
        assert len(records._pages) <= 4


def test_a_billion_records_are_opened_by_reading_a_sector(path: Path) -> None:
    count = 10**9
    filled = (count + 1) % PLACES_A_PAGE
    layout = Layout(count, count, 4096, 0, 8, zlib.crc32(bytes(filled * 8)))
    layout = layout._replace(end=layout.first + count)
    path.write_bytes(layout.packed())
    os.truncate(path, layout.end)
    with Records(path) as records:
        assert len(records) == count
        assert not records._pages
        # No places were written.
        with pytest.raises(RecordsError, match="is said to lie from 0x0 to 0x0"):
            records[-1]
        assert len(records._pages) <= 2
    path.unlink()


def test_a_pickled_dataset_is_opened_anew_and_a_chain_is_left_open(thousand: Path) -> None:
    with Chain(thousand) as chain:
        with Records(chain, cache_bytes=5) as records:
            copied = pickle.loads(pickle.dumps(records))
        assert chain.read_at(0, 8) == b"hatchrec"
        assert copied[7] == struct.pack("<I", 7)
        copied.chain.close()
    with Records(thousand, lock=False) as records, pickle.loads(pickle.dumps(records)) as copied:
        assert copied.chain is not records.chain
        assert copied[999] == records[-1]
    with pytest.raises(ValueError, match="the chain is closed"):
        records[0]


def test_wrong_arguments_are_refused(thousand: Path) -> None:
    with RawFile(thousand) as target:
        for alignment in (0, 3, 1 << 31):
            with pytest.raises(ValueError, match=f"power of two up to .*, not {alignment}"):
                write_records(target, [], alignment=alignment)
        with pytest.raises(ValueError, match="capacity must be from 0 to"):
            write_records(target, [], capacity=-1)
    with pytest.raises(ValueError, match="cache_bytes must be at least 0, not -1"):
        Records(thousand, cache_bytes=-1)
    with pytest.raises(ValueError, match="most_record_bytes must be at least 0, not -1"):
        Records(thousand, most_record_bytes=-1)
    with Chain(thousand) as chain, pytest.raises(TypeError, match="lock cannot be given"):
        Records(chain, lock=False)
    with Records(thousand) as records:
        for index in (1000, -1001):
            with pytest.raises(IndexError, match=f"no record {index}; .* holds 1000"):
                records[index]
    too_large = pytest.raises(RecordsError, match=r"record 5 of .* has 4 bytes; 3 are allowed")
    with Records(thousand, most_record_bytes=3) as records, too_large:
        records[5]
    too_many = pytest.raises(RecordsError, match="there is room for 3 records")
    with RawFile(thousand) as target, too_many:
        write_records(target, [b"a"] * 4, capacity=3)
    with pytest.raises(RecordsError, match="holds no records"):
        Records(thousand)
    with pytest.raises(ImageError, match="cannot be opened to be written"):
        RawFile(thousand / "below")


def test_damage_is_named(thousand: Path) -> None:
    content = bytearray(thousand.read_bytes())
    thousand.write_bytes(content[:5000])
    with pytest.raises(RecordsError, match=r"if it was cut, give it back its size"):
        Records(thousand)
    for at, said in ((0, "holds no records"), (8, "of version"), (100, "match its checksum")):
        damaged = bytearray(content)
        damaged[at] ^= 1
        thousand.write_bytes(damaged)
        with pytest.raises(RecordsError, match=said):
            Records(thousand)
    content[4096 + 5000] ^= 1
    thousand.write_bytes(content)
    with Records(thousand) as records:
        assert records[500] == struct.pack("<I", 500)
        with pytest.raises(
            RecordsError, match=r"page 1 of the table .* records 510 to 999"
        ) as caught:
            records[700]
        assert caught.value.offset == 8192
        with RawFile(thousand) as target, pytest.raises(RecordsError, match="page 1 of the table"):
            append_records(target, [b"one"])


@given(
    changes=st.lists(
        st.tuples(st.integers(0, 8), st.integers(0, 2**64 - 1) | st.integers(0, 20_000)),
        min_size=1,
        max_size=3,
    ),
    where=st.sampled_from([16, 4096]),
)
def test_a_table_of_any_numbers_that_matches_its_checksum(
    changes: list[tuple[int, int]], where: int, path: Path
) -> None:
    path.unlink(missing_ok=True)
    with RawFile(path) as target:
        write_records(target, [b"record"] * 8, capacity=8)
    content = bytearray(path.read_bytes())
    for at, value in changes:
        if at < (4 if where == 16 else 9):
            struct.pack_into("<Q", content, where + at * 8, value)
    struct.pack_into("<I", content, 52, zlib.crc32(content[4096 : 4096 + 9 * 8]))
    struct.pack_into("<I", content, 12, 0)
    struct.pack_into("<I", content, 12, zlib.crc32(content[:HEADER_BYTES]))
    path.write_bytes(content)
    try:
        with Records(path, most_record_bytes=1000) as records:
            for index in (0, len(records) // 2, len(records) - 1):
                assert len(records[index]) <= 1000
    except (RecordsError, IndexError) as error:
        assert str(path) in str(error)  # noqa: PT017
