"""Any step of a random program comes back as it was, whatever lies where in memory."""

from __future__ import annotations

import mmap
import tempfile
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hatchway.checkpoint import IncrementalSnapshot, restore, steps_of
from hatchway.checkpoint import clusters as kernels
from tests.real import qemu

# Views of one block of memory: they may touch, overlap, and begin anywhere in a page.
VIEWS = st.lists(st.tuples(st.integers(0, 60_000), st.integers(1, 30_000)), min_size=1, max_size=6)
STEPS = st.lists(
    st.lists(st.tuples(st.integers(0, 90_000), st.integers(1, 9_000)), max_size=4), max_size=6
)


@given(VIEWS, STEPS, st.sampled_from(["auto", "hash"]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_step_comes_back(
    views: list[tuple[int, int]],
    steps: list[list[tuple[int, int]]],
    backend: str,
    natively: bool,
) -> None:
    memory = np.frombuffer(mmap.mmap(-1, 100_000), np.uint8)  # with nothing else on its pages
    random = np.random.default_rng(len(steps))
    regions = {f"r{rank}": memory[at : at + size] for rank, (at, size) in enumerate(views)}
    held = []
    found = kernels.KERNELS
    with tempfile.TemporaryDirectory() as directory:
        try:
            kernels.KERNELS = found if natively else None
            with IncrementalSnapshot(regions, directory, backend=backend) as snapshot:
                for number, writes in enumerate([[(0, 100_000)], *steps]):
                    for start, length in writes:
                        memory[start : start + length] = random.integers(256)
                    rests = snapshot._tracker.statistics().num_resting_blocks
                    saved = snapshot.save(bytes([number]) * number * 999)
                    assert saved.step == number
                    assert saved.is_full == (number == 0)
                    held.append({name: array.copy() for name, array in regions.items()})
                    if not writes and number and not rests:
                        assert saved.num_bytes == 0
            assert steps_of(directory) == list(range(len(held)))
            if not qemu.MISSING:
                qemu.check(saved.path)
            for number in random.permutation(len(held)).tolist():
                into = {name: np.zeros_like(array) for name, array in regions.items()}
                restored = restore(directory, into, step=number)
                assert restored == (number, bytes([number]) * number * 999, [])
                for name, array in into.items():
                    assert np.array_equal(array, held[number][name])
        finally:
            kernels.KERNELS = found


@given(st.integers(1, 20), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_checksums_are_those_of_zlib(num_clusters: int, seed: int) -> None:
    data = np.random.default_rng(seed).bytes(num_clusters * 4096)
    natively: Any = kernels.checksums(data)
    found, kernels.KERNELS = kernels.KERNELS, None
    try:
        assert kernels.checksums(data).tolist() == natively.tolist()
    finally:
        kernels.KERNELS = found
