"""What a chain knows of where things lie is what its files say, after each write to it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hatchway.disk import Chain, kernel
from hatchway.disk.active import create
from hatchway.disk.leaves import LEAF_GRANULES, merged
from tests.real import qemu

pytestmark = [pytest.mark.real, qemu.needs_qemu, pytest.mark.timeout(120)]

KIB = 1024
# What is given up is a hole then.
WITHOUT_ZEROS = {"compat": "0.10", "cluster_size": 512}
KINDS: list[dict[str, Any]] = [
    {"cluster_size": 512},
    {"cluster_size": 4096},
    {"cluster_size": 65536},
    {"cluster_size": 16384, "extended_l2": True},
    {"cluster_size": 2048 * KIB},
    WITHOUT_ZEROS,
]
# Three leaves of granules of 512 bytes, and where they meet.
SECTORS = st.integers(0, 1499) | st.sampled_from([0, 511, 512, 1023, 1024, 1499])
PLACES = st.tuples(SECTORS, st.integers(1, 40) | st.integers(1, 600))
OPERATIONS = st.tuples(st.sampled_from(["write", "write", "zero", "discard", "flush"]), PLACES)


def make(path: Path, num_sectors: int, kind: dict[str, Any], base: Path | None = None) -> None:
    if "compat" in kind:
        qemu.create(path, num_sectors * 512, base, **kind)
    else:
        names = {"backing": base and base.name, "backing_format": base and "qcow2"}
        create(path, num_sectors * 512, **names, **kind)


def change(chain: Chain, name: str, first: int, count: int) -> None:
    at = min(first * 512, chain.size)
    size = min(count * 512, chain.size - at)
    if name == "write":
        chain.write_at(at, bytes([count % 255 + 1]) * size)
    elif name == "zero":
        chain.write_zeroes_at(at, size)
    elif name == "discard":
        chain.discard_at(at, size)
    else:
        chain.flush()


@example(
    kinds=(KINDS[0], WITHOUT_ZEROS),
    num_below=1,
    below=[],
    operations=[("write", (100, 50)), ("zero", (110, 20))],
    cache_bytes=16 << 20,
)
@settings(deadline=None, max_examples=60)
@given(
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    num_below=st.sampled_from([1, 700, 1500]),
    below=st.lists(PLACES, max_size=3),
    operations=st.lists(OPERATIONS, min_size=1, max_size=8),
    cache_bytes=st.sampled_from([0, 16 << 20]),
)
def test_leaves_follow_each_write(
    kinds: tuple[dict[str, Any], dict[str, Any]],
    num_below: int,
    below: list[tuple[int, int]],
    operations: list[tuple[str, tuple[int, int]]],
    cache_bytes: int,
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        base, top = Path(directory) / "base.qcow2", Path(directory) / "top.qcow2"
        make(base, num_below, kinds[0])
        make(top, 1500, kinds[1], base)
        with Chain(base, writable=True) as chain:
            for place in below:
                change(chain, "write", *place)
        with Chain(top, writable=True, cache_bytes=cache_bytes) as chain:
            region = LEAF_GRANULES * chain.granule_bytes
            for name, place in [("flush", (0, 1)), *operations]:
                change(chain, name, *place)
                for rank in range(-(-chain.size // region)):
                    known = chain._leaves.load(rank)
                    said = merged(chain.images, rank * region, chain.granule_bytes)
                    assert bytes(known.words) == bytes(said.words), rank
                    assert bytes(known.layers) == bytes(said.layers), rank


@pytest.mark.skipif(not kernel.is_built(), reason="native code is not built")
def test_writes_go_to_their_place_without_a_lock_from_the_second_one_there_on(
    tmp_path: Path,
) -> None:
    create(tmp_path / "one.qcow2", 1 << 20)
    with Chain(tmp_path / "one.qcow2", writable=True) as chain:
        chain.write_at(0, b"1" * 512)
        chain.write_at(512, b"2" * 512)
        assert chain._leaves.overwrite(1024, b"3" * 512)
        assert not chain._leaves.overwrite(65536, b"4")  # no cluster is there
        assert chain.read_at(0, 1536) == b"1" * 512 + b"2" * 512 + b"3" * 512
