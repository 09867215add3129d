"""Zeros and discards make of a file what they make of it when QEMU does them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.real import qemu
from tests.real.layers import writing

pytestmark = [pytest.mark.real, qemu.needs_qemu, pytest.mark.timeout(120)]

KIB = 1024
SIZE = 203 * KIB
KINDS: list[dict[str, Any]] = [
    {"cluster_size": 512},
    {"cluster_size": 4096},
    {"cluster_size": 65536},
    {"cluster_size": 16384, "extended_l2": "on"},
]
PLACES = st.tuples(
    st.integers(0, SIZE // 512 - 1).map(lambda at: at * 512),
    st.integers(1, 20).map(lambda count: count * 512) | st.integers(1, 80).map(lambda n: n * 4096),
)
LAYOUT = st.lists(st.tuples(st.sampled_from(["base", "top", "zero"]), PLACES), max_size=5)
NAMES = st.sampled_from(["write -z", "write -z -u", "discard"])


def pieces(path: Path) -> list[tuple[Any, ...]]:
    """What is said of each piece of the disk, and whether it has room in the file."""
    found = [
        (one["depth"], one["present"], one["zero"], one["data"], one["start"], one["length"])
        for one in qemu.extents(path)
    ]
    merged = found[:1]
    for one in found[1:]:
        if merged[-1][:4] == one[:4]:
            merged[-1] = (*merged[-1][:5], merged[-1][5] + one[5])
        else:
            merged.append(one)
    return merged


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=20)
@given(
    kind=st.sampled_from(KINDS),
    has_base=st.booleans(),
    layout=LAYOUT,
    operations=st.lists(st.tuples(NAMES, PLACES), min_size=1, max_size=5),
)
def test_zeros_and_discards_leave_what_qemu_leaves(
    kind: dict[str, Any], has_base: bool, layout: list[Any], operations: list[Any]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        base = ours = Path(directory) / "base.qcow2"
        # Past the end of what lies below a discard leaves holes, where QEMU makes zeros of them.
        is_short = all(name != "discard" for name, _ in operations)
        base_bytes = SIZE - 40 * KIB if is_short else SIZE
        if has_base:
            ours = base.with_name("ours.qcow2")
            qemu.create(base, base_bytes, cluster_size=512)  # so that all of one is data
        qemu.create(ours, SIZE, base if has_base else None, **kind)
        for where, (start, num_bytes) in layout:
            path = base if where == "base" else ours
            end = min(start + num_bytes, SIZE if path == ours else base_bytes)
            if start < end:
                said = "-z" if where == "zero" else "-P 1"
                qemu.io(path, [f"write {said} {start} {end - start}"])
        theirs = base.with_name("theirs.qcow2")
        shutil.copy(ours, theirs)
        clipped = [(name, at, min(count, SIZE - at)) for name, (at, count) in operations]
        qemu.io(theirs, [f"{name} {at} {num_bytes}" for name, at, num_bytes in clipped])
        with writing(ours) as layer:
            for name, at, num_bytes in clipped:
                if name == "discard":
                    layer.discard(at, num_bytes)
                else:
                    layer.write_zeroes(at, num_bytes, may_unmap=name.endswith("-u"))
        qemu.check(ours)
        assert qemu.contents(ours) == qemu.contents(theirs)
        assert pieces(ours) == pieces(theirs)
