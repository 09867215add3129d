"""Random programs beside a shadow that knows what they wrote: nothing is missed or invented."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatchway.memory import BackendUnavailableError, DirtyPages, DirtyTracker

PAGE = mmap.PAGESIZE
# More than a table of pages maps, so that a whole one can be given back.
NUM_PAGES = 3 * 512 + 7
ANONYMOUS = mmap.MAP_ANONYMOUS
PLACES = st.integers(0, NUM_PAGES - 1)
LENGTHS = st.one_of(st.integers(1, 5), st.integers(500, 1100))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PLACES, LENGTHS),
        st.tuples(st.just("scatter"), PLACES, st.integers(2, 40)),
        st.tuples(st.just("read"), PLACES, LENGTHS),
        st.tuples(st.just("give back"), PLACES, LENGTHS),
        st.tuples(st.just("read into"), PLACES, st.integers(1, 5)),
        st.tuples(st.just("fork"), PLACES, LENGTHS),
        st.tuples(st.just("collect"), st.integers(0, 1), st.just(0)),
    ),
    min_size=3,
    max_size=25,
)


def run(kind: int, step: tuple[str, int, int], memory: mmap.mmap, number: int) -> set[int]:
    """Do one step; the pages whose bytes it may have changed."""
    name, first, length = step
    pages = range(first, min(first + length, NUM_PAGES))
    array = np.frombuffer(memory, np.uint8).reshape(NUM_PAGES, PAGE)
    if name == "scatter":
        pages = range(first, NUM_PAGES, length)
    if name in ("write", "scatter"):
        array[pages, number % PAGE] = number % 255 + 1
        return set(pages)
    if name == "read":
        array[pages].sum()
    elif name == "give back":
        memory.madvise(mmap.MADV_DONTNEED, first * PAGE, len(pages) * PAGE)
        return set(pages) if kind & mmap.MAP_PRIVATE else set()
    elif name == "read into":
        with open("/dev/urandom", "rb", buffering=0) as source:
            source.readinto(memoryview(memory)[pages.start * PAGE : pages.stop * PAGE])
        return set(pages)
    elif name == "fork":
        if not (child := os.fork()):
            array[pages, 0] += 1
            os._exit(0)
        os.waitpid(child, 0)
        # What a child writes to shared memory is not seen: docs/memory.md.
    return set()


def numbers_of(dirty: DirtyPages, memory: mmap.mmap) -> set[int]:
    start = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
    return {
        (address - start) // PAGE for begin, end in dirty for address in range(begin, end, PAGE)
    }


@given(
    kind=st.sampled_from([mmap.MAP_PRIVATE | ANONYMOUS, mmap.MAP_SHARED | ANONYMOUS]),
    steps=STEPS,
    whole_above=st.sampled_from([None, 0.2]),
)
@settings(max_examples=60, deadline=None)
def test_what_a_program_writes_is_told_once(
    kind: int, steps: list[tuple[str, int, int]], whole_above: float | None
) -> None:
    memory = mmap.mmap(-1, NUM_PAGES * PAGE, flags=kind)
    trackers: list[Any] = [
        DirtyTracker(memory, backend="pagemap_scan", whole_above=whole_above),
        DirtyTracker(memoryview(memory)[PAGE * 600 :], backend="pagemap_scan", whole_above=None),
    ]
    tracked = set(range(NUM_PAGES)), set(range(600, NUM_PAGES))
    written: tuple[set[int], set[int]] = set(), set()
    try:
        for tracker in trackers:
            tracker.start()
    except BackendUnavailableError as reason:
        pytest.skip(str(reason))
    try:
        for number, step in enumerate([*steps, ("collect", 0, 0), ("collect", 1, 0)]):
            if step[0] != "collect":
                changed = run(kind, step, memory, number)
                for known, of in zip(written, tracked, strict=True):
                    known |= changed & of
                continue
            which = step[1]
            found = numbers_of(trackers[which].collect(), memory)
            assert written[which] <= found
            if whole_above is None or which:
                assert found <= written[which]
            written[which].clear()
    finally:
        for tracker in trackers:
            tracker.close()
        del trackers, tracker


@given(steps=STEPS)
@settings(max_examples=20, deadline=None)
def test_digests_tell_what_holds_other_bytes(steps: list[tuple[str, int, int]]) -> None:
    memory = mmap.mmap(-1, NUM_PAGES * PAGE)
    array = np.frombuffer(memory, np.uint8).reshape(NUM_PAGES, PAGE)
    before = array.copy()
    with DirtyTracker(memory, backend="hash", whole_above=None) as tracker:
        for number, step in enumerate([*steps, ("collect", 0, 0)]):
            if step[0] != "collect":
                run(mmap.MAP_SHARED, step, memory, number)
                continue
            changed = set(np.flatnonzero((array != before).any(axis=1)).tolist())
            assert numbers_of(tracker.collect(), memory) == changed
            before = array.copy()
