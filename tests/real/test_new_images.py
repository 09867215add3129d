"""A new image is one that QEMU takes as its own, or is not there at all."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatchway.disk import Chain, ImageError, ImageWriteError, LockedImageError
from hatchway.disk.active import create, create_filled, open_to_write
from tests.real import qemu

pytestmark = [pytest.mark.real, qemu.needs_qemu]

MIB = 1024 * 1024
KINDS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "clusters of 512 bytes": {"cluster_size": 512},
    "clusters of 512 bytes, refcounts of 64 bits": {"cluster_size": 512, "refcount_bits": 64},
    "clusters of 2 MiB, refcounts of 1 bit": {"cluster_size": 2 * MIB, "refcount_bits": 1},
    "refcounts of 2 bits": {"refcount_bits": 2},
    "refcounts of 32 bits": {"refcount_bits": 32},
    "subclusters": {"extended_l2": True},
    "subclusters of 512 bytes": {"extended_l2": True, "cluster_size": 16384},
    "zstd": {"compression": "zstd"},
}
SIZES = [0, 512, 10 * MIB, 64 * 1024 * MIB]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_qemu_writes_to_it_and_finds_nothing_wrong(kind: str, size: int, tmp_path: Path) -> None:
    path, options = tmp_path / "one.qcow2", KINDS[kind]
    create(path, size, **options)
    qemu.check(path)
    said = json.loads(qemu.img("info", "--output=json", path))
    specific = said["format-specific"]["data"]
    assert said["virtual-size"] == size
    assert said["cluster-size"] == options.get("cluster_size", 65536)
    assert specific["refcount-bits"] == options.get("refcount_bits", 16)
    assert specific["extended-l2"] is options.get("extended_l2", False)
    assert specific["compression-type"] == options.get("compression", "zlib")
    with Chain(path) as chain:
        assert chain.size == size
        assert not any(chain.read_at(0, MIB))
    if size > MIB:
        qemu.io(path, ["write -P 1 1k 100k", f"write -P 2 {size - 512} 512"])
        qemu.check(path)


def test_it_takes_no_room_for_what_it_does_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, 1 << 50)
    assert path.stat().st_blocks * 512 < MIB


@pytest.mark.parametrize("backing_format", ["raw", "qcow2"])
def test_a_backing_file(backing_format: str, tmp_path: Path) -> None:
    base = tmp_path / f"base.{backing_format}"
    if backing_format == "raw":
        qemu.raw(base, b"\1" * MIB)
    else:
        qemu.create(base, MIB)
        qemu.io(base, ["write -P 1 0 1M"])
    path = tmp_path / "top.qcow2"
    create(path, MIB, backing=base.name, backing_format=backing_format, cluster_size=512)
    assert qemu.contents(path) == b"\1" * MIB
    with Chain(path) as chain:
        assert chain.read_at(0, MIB) == b"\1" * MIB


def test_what_is_there_already_is_left_as_it_is(tmp_path: Path) -> None:
    path = qemu.raw(tmp_path / "one.qcow2", b"dear")
    with pytest.raises(ImageError, match="there already"):
        create(path, MIB)
    assert path.read_bytes() == b"dear"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ImageWriteError, match="No such file"):
        create(tmp_path / "nowhere" / "one.qcow2", MIB)
    with pytest.raises(ValueError, match="shorter name"):
        create(
            tmp_path / "one.qcow2", MIB, backing="b" * 400, backing_format="raw", cluster_size=512
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": 511}, "multiple of 512"),
        ({"size": -512}, "multiple of 512"),
        ({"size": 1 << 50, "cluster_size": 512}, "larger clusters"),
        ({"cluster_size": 1000}, "power of two"),
        ({"cluster_size": 8192, "extended_l2": True}, "at least 16384"),
        ({"refcount_bits": 3}, "from 1 to 64"),
        ({"backing": "base.raw"}, "backing_format"),
        ({"backing_format": "raw"}, "no backing"),
        ({"backing": "b" * 1024, "backing_format": "raw"}, "1023 bytes"),
        ({"compression": "lzma"}, "compression"),
    ],
)
def test_an_argument_that_makes_no_image(
    arguments: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        create(tmp_path / "one.qcow2", **{"size": MIB, **arguments})


def test_qemu_reads_what_is_open_for_writing_and_does_not_write_to_it(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, MIB)
    file = open_to_write(path)
    try:
        qemu.io(path, ["read 0 512"], "-r", "-U")
        with pytest.raises(AssertionError, match=r"Failed to get .* lock"):
            qemu.io(path, ["read 0 512"], "-r")
        with pytest.raises(AssertionError, match=r"Failed to get .* lock"):
            qemu.io(path, ["write 0 512"])
        with pytest.raises(LockedImageError, match="writes to it"):
            Chain(path)
        with pytest.raises(LockedImageError, match="to write"):
            open_to_write(path)
        Chain(path, lock=False).close()
    finally:
        file.close()
    qemu.io(path, ["write 0 512"])


@pytest.mark.parametrize(("flags", "said"), [((), "write"), (("-r",), "to write")])
def test_what_qemu_has_open_is_not_opened_for_writing(
    flags: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "one.qcow2"
    create(path, MIB)
    command = ["qemu-io", "-f", "qcow2", *flags, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        peer.stdin.write(b"read 0 512\n")
        peer.stdin.flush()
        while b"read 512" not in peer.stdout.readline():
            pass
        with pytest.raises(LockedImageError, match=said):
            open_to_write(path)
        peer.stdin.write(b"quit\n")
        peer.stdin.flush()
        peer.wait(20)
    open_to_write(path).close()


def test_what_is_no_file_is_not_opened_for_writing(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="neither a regular file"):
        open_to_write(tmp_path)
    with pytest.raises(ImageWriteError, match="No such file"):
        open_to_write(tmp_path / "one.qcow2")


@given(
    data=st.data(),
    cluster_size=st.sampled_from([512, 4096]),
    num_clusters=st.integers(1, 700),
    is_overlay=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_a_filled_image_holds_its_clusters_and_no_others(
    data: st.DataObject, cluster_size: int, num_clusters: int, is_overlay: bool
) -> None:
    held = data.draw(st.sets(st.integers(0, num_clusters - 1), max_size=100))
    clusters = np.array(sorted(held), np.int64)
    random = np.random.default_rng(num_clusters)
    rows = random.integers(1, 256, (len(held), cluster_size), np.uint8)
    expected = np.full((num_clusters, cluster_size), 7 if is_overlay else 0, np.uint8)
    with tempfile.TemporaryDirectory() as directory:
        base = qemu.raw(Path(directory) / "base.raw", expected.tobytes())
        path = Path(directory) / "filled.qcow2"
        below = {"backing": base.name, "backing_format": "raw"} if is_overlay else {}
        create_filled(
            path,
            num_clusters * cluster_size,
            clusters,
            lambda file, offset: file.pwritev(list(rows), offset),
            cluster_size=cluster_size,
            **below,
        )
        expected[clusters] = rows
        qemu.check(path)
        assert qemu.contents(path) == expected.tobytes()
        with Chain(path) as chain:
            assert chain.read_at(0, chain.size) == expected.tobytes()
            assert [one.layer for one in chain.map() if one.kind == "data"].count(
                len(chain.images) - 1
            ) == len(held) - sum(cluster + 1 in held for cluster in held)


@pytest.mark.parametrize("clusters", [[-1], [3, 3], [4, 2], [10]])
def test_clusters_that_do_not_ascend_within_the_disk_are_refused(
    clusters: list[int], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="clusters must ascend, within a disk of 40960 bytes"):
        create_filled(tmp_path / "x", 40960, np.array(clusters), lambda *_: None)
    assert not list(tmp_path.iterdir())
