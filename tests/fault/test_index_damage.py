"""An index that is cut short, half written or changed says what was written, or nothing."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hatchway.disk import Chain, ImageError
from hatchway.disk.composing import Composer
from hatchway.disk.errors import DamagedIndexError
from hatchway.disk.files import Descriptors
from hatchway.disk.index import Built, StoredIndex, build, building, sidecar_of
from hatchway.disk.index.appending import Appender
from hatchway.disk.index.blocks import FIRST_BLOCK
from hatchway.disk.index.shortcut import Shortcut
from hatchway.disk.leaves import LEAF_GRANULES, merged
from hatchway.disk.naming import Allowed
from tests.images import CLUSTER, write_chain

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]

NUM_CLUSTERS = 3 * LEAF_GRANULES
STEP = LEAF_GRANULES * CLUSTER


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are indexed a while after they were written, by the clock."""
    monkeypatch.setattr(building, "file_system_time", lambda fd: time.time_ns() + 10**10)


def random_layers(length: int, seed: int = 5) -> list[dict[int, int]]:
    place = random.Random(seed)
    clusters = range(NUM_CLUSTERS)
    return [
        {
            cluster: place.choice([1, 1 << 63 | CLUSTER * place.randrange(1, 999)])
            for cluster in place.sample(clusters, 100)
        }
        for _ in range(length)
    ]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return write_chain(tmp_path, random_layers(13), NUM_CLUSTERS)


class Reader:
    """What a chain's index says, beside what merging finds."""

    def __init__(self, top: Path) -> None:
        self.chain = Chain(top)
        self.images = self.chain.images
        self.layer = self.images[-2].path
        self.identities = [image.file.identity for image in self.images[:-1]]
        starts = range(0, NUM_CLUSTERS * CLUSTER, STEP)
        self.expected = [merged(self.images, start, CLUSTER) for start in starts]

    def num_layers(self) -> int:
        """How many layers are read through it; asserts that each word is right."""
        found = StoredIndex.find(self.layer)
        if found is None:
            return 0
        with found:
            num_layers = found.valid_prefix(self.identities)
            if num_layers:
                shortcut = Shortcut(Allowed(self.layer), Descriptors(), locks=False)
                shortcut.index, shortcut.num_layers = found, num_layers
                composer = Composer(self.images, CLUSTER, is_written=False, shortcut=shortcut)
                for rank, expected in enumerate(self.expected):
                    leaf = composer.make(rank)
                    assert leaf.words == expected.words
                    assert leaf.layers == expected.layers
        return num_layers

    def num_damaged(self) -> int:
        """How many leaves cannot be read."""
        num_damaged = 0
        with StoredIndex.find(self.layer) as found:
            num_layers = found.valid_prefix(self.identities)
            for rank in range(len(self.expected)):
                try:
                    found.leaf(rank, num_layers)
                except DamagedIndexError:
                    num_damaged += 1
        return num_damaged


@pytest.fixture
def reader(paths: list[Path]) -> Iterator[Reader]:
    reader = Reader(paths[-1])
    with reader.chain:
        yield reader


def test_any_flipped_byte_is_noticed(reader: Reader) -> None:
    build(reader.images[:4])
    path = build(reader.images[:-1]).path
    assert reader.num_layers() == 12
    content = path.read_bytes()
    place = random.Random(1)
    interesting = [*range(FIRST_BLOCK), *range(len(content) - 600, len(content))]
    for at in interesting + place.sample(range(len(content)), 700):
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes([content[at] ^ 1 << place.randrange(8)]))
        assert reader.num_layers() in (0, 4, 12), at
        with path.open("r+b") as file:
            file.seek(at)
            file.write(content[at : at + 1])
    assert reader.num_layers() == 12


def test_a_damaged_leaf_is_merged_and_the_others_serve_on(reader: Reader) -> None:
    damage_a_leaf(build(reader.images[:-1]).path)
    assert reader.num_layers() == 12
    assert reader.num_damaged() == 1


def test_a_leaf_in_the_place_of_another_is_noticed(reader: Reader) -> None:
    path = build(reader.images[:-1]).path
    with StoredIndex.find(reader.layer) as found:
        assert found.valid_prefix(reader.identities) == 12
        first, second = (found._trees[12].offset_of(0, rank) for rank in (0, 1))
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(first)
        file.write(content[second : second + 5128])
    assert reader.num_layers() == 12
    assert reader.num_damaged() == 1


def test_any_cut_off_end_is_noticed(reader: Reader) -> None:
    path = build(reader.images[:-1]).path
    content = path.read_bytes()
    for length in [*range(0, len(content), 211), len(content) - 1]:
        path.write_bytes(content[:length])
        assert reader.num_layers() in (0, 12)
    path.write_bytes(b"")
    assert reader.num_layers() == 0


class Cut(BaseException):
    """The machine stops."""


class Machine:
    """A disk that keeps what was synced, and of what was written since any part.

    Args:
        most: Writes and syncs after which the machine stops.
        place: Draws what is kept.
    """

    def __init__(self, most: int, place: random.Random, patch: pytest.MonkeyPatch) -> None:
        self._most = most
        self._place = place
        self._write: Callable[..., None] = Appender.write_at
        self._sync: Callable[..., None] = Appender.sync
        self._waiting: list[tuple[Appender, int, bytes, bytes]] = []
        self.num_done = 0
        patch.setattr(Appender, "write_at", lambda it, content, at: self._on_write(it, content, at))
        patch.setattr(Appender, "sync", lambda it: self._on_sync(it))
        patch.setattr(Appender, "abandon", lambda it: None)

    def _on_write(self, appender: Appender, content: bytes, at: int) -> None:
        before = os.pread(appender.file.fd, len(content), at)
        self._waiting.append((appender, at, before, bytes(content)))
        self._write(appender, content, at)
        self._step()

    def _on_sync(self, appender: Appender) -> None:
        self._sync(appender)
        if self.num_done + 1 < self._most:
            self._waiting.clear()
        self._step()

    def _step(self) -> None:
        self.num_done += 1
        if self.num_done >= self._most:
            self._lose()
            raise Cut

    def _lose(self) -> None:
        for appender, at, before, content in reversed(self._waiting):
            kept = self._place.choice([0, len(content), self._place.randrange(len(content) + 1)])
            # A part that did not reach the disk is what it was, or zeros past the old end.
            lost = before[kept:].ljust(len(content) - kept, b"\0")
            self._write(appender, lost, at + kept)


@pytest.mark.parametrize("num_before", [0, 4, 11])
def test_a_build_that_is_cut_at_any_write_or_sync(
    num_before: int, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = random.Random(num_before)
    path = sidecar_of(reader.layer)
    allowed = {0, 12, num_before}
    for most in itertools.count(1):
        for _ in range(6):
            for name in path.parent.glob("*.hatchway-index"):
                name.unlink()
            if num_before:
                os.link(build(reader.images[:num_before]).path, path)
            with monkeypatch.context() as patch:
                machine = Machine(most, place, patch)
                with contextlib.suppress(Cut):
                    build(reader.images[:-1])
            assert reader.num_layers() in (allowed if num_before == 0 else {num_before, 12})
            assert not list(path.parent.glob(".hatchway*"))
            # The next one makes up for it.
            assert build(reader.images[:-1]).num_reused >= num_before
            assert reader.num_layers() == 12
        if machine.num_done < most:
            assert most > 4
            return


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_build_that_ends_early_leaves_what_was_there(
    error: BaseException, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build(reader.images[:4]).path
    content = path.read_bytes()
    with monkeypatch.context() as patch:

        def fail(appender: Appender) -> None:
            raise error

        patch.setattr(Appender, "sync", fail)
        with pytest.raises((KeyboardInterrupt, ImageError)):
            build(reader.images[:-1])
    assert path.read_bytes() == content
    assert [one.name for one in path.parent.iterdir() if "index" in one.name] == [path.name]


def damage_a_leaf(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    with StoredIndex(path, fd) as found:
        found.valid_prefix([record.identity for record in found.layers])
        at = found._trees[found.commit.num_layers].offset_of(0, 1)
        os.pwrite(fd, b"damage", at + 77)


def test_an_index_that_is_damaged_is_not_gone_on_from(reader: Reader) -> None:
    damage_a_leaf(build(reader.images[:11]).path)
    assert build(reader.images[:-1]).num_reused == 0
    assert reader.num_layers() == 12
    assert reader.num_damaged() == 0


def test_a_damaged_index_is_mended_when_it_is_looked_at(reader: Reader) -> None:
    damage_a_leaf(build(reader.images[:-1]).path)
    assert build(reader.images[:-1]).written_bytes == 0
    assert reader.num_damaged() == 1
    assert build(reader.images[:-1], prove="digest").num_reused == 0
    assert reader.num_damaged() == 0


@pytest.mark.parametrize("num_before", [0, 4])
def test_several_builders_at_once_do_no_harm(num_before: int, reader: Reader) -> None:
    top = reader.images[-1].path
    for _ in range(10):
        for name in top.parent.glob("*.hatchway-index"):
            name.unlink()
        if num_before:
            build(reader.images[:num_before])
        together = threading.Barrier(3)
        with ThreadPoolExecutor(3) as pool:
            builders = [pool.submit(build_together, top, together) for _ in range(3)]
        assert [one.result().num_layers for one in builders] == [12] * 3
        assert reader.num_layers() == 12
        assert not list(top.parent.glob(".hatchway*"))


def build_together(top: Path, together: threading.Barrier) -> Built:
    with Chain(top) as chain:
        together.wait()
        return build(chain.images[:-1])
