"""Whatever was indexed in whatever order, and changed since, the words are those of the files."""

from __future__ import annotations

import os
import random
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hatchway.disk import Chain, ImageError, kernel
from hatchway.disk.files import Descriptors
from hatchway.disk.image import Image
from hatchway.disk.index import StoredIndex, build, building
from hatchway.disk.index.blocks import FIRST_BLOCK, newest_slot
from hatchway.disk.index.tables import Canvas, Tables
from hatchway.disk.leaves import LEAF_GRANULES
from tests.images import CLUSTER, write_chain, write_image
from tests.real.indexed import num_indexed

pytestmark = pytest.mark.timeout(120)

# Four leaves, and where they meet.
NUM_CLUSTERS = 4 * LEAF_GRANULES - 100
CLUSTERS = st.integers(0, NUM_CLUSTERS - 1) | st.sampled_from([0, 511, 512, 1023, 1024, 1947])
ENTRIES = st.just(1) | st.integers(1, 2000).map(lambda place: 1 << 63 | place * CLUSTER)
LAYERS = st.dictionaries(CLUSTERS, ENTRIES, max_size=12)
OPERATIONS = st.one_of(
    st.tuples(st.just("index"), st.integers(1, 14), st.sampled_from(["stamps", "digest"])),
    st.tuples(st.just("change"), st.integers(0, 13), LAYERS),
    st.tuples(st.just("drop"), st.integers(1, 14), st.none()),
)


def later(fd: int) -> int:
    """Files are indexed a while after they were written."""
    return time.time_ns() + 10**10


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=120)
@given(
    layers=st.lists(LAYERS, min_size=2, max_size=15),
    operations=st.lists(OPERATIONS, max_size=12),
)
def test_an_index_says_what_the_files_say(
    layers: list[dict[int, int]], operations: list[tuple[str, int, object]]
) -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch.object(building, "file_system_time", later),
    ):
        paths = write_chain(Path(directory), layers, NUM_CLUSTERS)
        for step, (name, number, detail) in enumerate(operations):
            number = min(number, len(paths) - 1)
            if name == "index":
                with Chain(paths[number]) as chain:
                    assert build(chain.images[:-1], prove=detail).num_layers == number
                assert num_indexed(paths[number]) == number
            elif name == "change":
                below = paths[number - 1] if number else None
                write_image(paths[number], detail, NUM_CLUSTERS, below)
                # As if a while after the index, however coarse the clock is.
                os.utime(paths[number], ns=(0, time.time_ns() + step))
            else:
                path = paths[number - 1]
                path.with_name(path.name + ".hatchway-index").unlink(missing_ok=True)
        for path in paths[1:]:
            num_indexed(path)


def taken(path: Path, ends: list[int]) -> list[object]:
    """What is known of a file's tables after each step; or the error that ends that."""
    found: list[object] = []
    leaves = NUM_CLUSTERS // LEAF_GRANULES + 1
    words = np.zeros((leaves, LEAF_GRANULES), np.uint64)
    canvas = Canvas(0, CLUSTER, words, words.astype(np.uint16), np.zeros(leaves, np.bool_))
    image = Image(path, Descriptors())
    try:
        tables = Tables(image)
        for end in [*sorted(ends), leaves * LEAF_GRANULES]:
            tables.take(end * CLUSTER, canvas, 3)
            found.append(tables.next_byte)
        found += [tables.digest(), *(array.tobytes() for array in canvas[2:])]
    except ImageError as error:
        found.append(str(error))
    finally:
        image.close()
    return found


@pytest.mark.skipif(not kernel.is_built(), reason="native code is not built")
@settings(deadline=None, max_examples=150)
@given(
    layer=LAYERS,
    ends=st.lists(st.integers(0, NUM_CLUSTERS), max_size=3),
    damaged=st.none() | st.integers(0, 2**32),
)
def test_native_code_takes_of_tables_what_python_takes(
    layer: dict[int, int], ends: list[int], damaged: int | None
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "one.qcow2"
        write_image(path, layer, NUM_CLUSTERS, None)
        if damaged is not None:
            draw = random.Random(damaged)
            content = bytearray(path.read_bytes())
            l1_table, tables, end = 3 * CLUSTER, 4 * CLUSTER, len(content)
            content[draw.randrange(l1_table, end)] ^= 1 << draw.randrange(8)
            path.write_bytes(content[: draw.choice([end, draw.randint(tables, end)])])
        natively = taken(path, ends)
        with mock.patch.object(kernel, "_MODULE", None):
            assert taken(path, ends) == natively


@settings(deadline=None, max_examples=300)
@given(content=st.binary(max_size=2 * FIRST_BLOCK), has_magic=st.booleans())
def test_a_file_of_any_bytes_is_no_index(content: bytes, has_magic: bool) -> None:
    content = b"HATCHIDX\1\0\0\0" * has_magic + content
    assert newest_slot(content) is None
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "one.qcow2"
        path.with_name("one.qcow2.hatchway-index").write_bytes(content)
        assert StoredIndex.find(path) is None
