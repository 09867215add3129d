"""A stored index says what the files say, whatever QEMU and others did to them since."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from hatchway.disk import Chain, ImageError
from hatchway.disk.index import StoredIndex, build, building, sidecar_of
from tests.real import qemu
from tests.real.indexed import MIB, index, let_time_pass, num_indexed

pytestmark = [pytest.mark.real, qemu.needs_qemu]


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    let_time_pass(monkeypatch)


def make_chain(directory: Path, length: int = 12, num_mib: int = 40) -> Path:
    """Each file holds some clusters of the disk, and hides some of the file below."""
    place = random.Random(length)
    path = directory / "0.qcow2"
    for number in range(length):
        below = directory / f"{number - 1}.qcow2" if number else None
        path = qemu.create(directory / f"{number}.qcow2", num_mib * MIB, below)
        starts = [place.randrange(num_mib * 16) * 64 for _ in range(20)]
        qemu.io(path, [f"write -P {number + 1} {start}k 64k" for start in starts])
    return path


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return make_chain(tmp_path)


def test_an_index_covers_all_but_the_active_layer(top: Path) -> None:
    assert num_indexed(top) == 0
    built = index(top)
    assert (built.num_layers, built.num_reused) == (11, 0)
    assert built.path == sidecar_of(top.with_name("10.qcow2"))
    assert built.file_bytes == built.path.stat().st_size
    assert num_indexed(top) == 11
    assert (
        sorted(path.suffix for path in top.parent.iterdir())
        == [".hatchway-index"] + [".qcow2"] * 12
    )


def test_building_what_is_there_writes_nothing(top: Path) -> None:
    first = index(top)
    again = index(top)
    assert (again.num_reused, again.written_bytes) == (11, 0)
    assert again.file_bytes == first.file_bytes


def test_qemu_writing_the_active_file_leaves_the_index_as_it_is(top: Path) -> None:
    index(top)
    qemu.io(top, ["write -P 77 0 3M", "write -z 5M 1M", "discard 8M 1M"])
    assert num_indexed(top) == 11


@pytest.mark.parametrize("changed", [0, 2, 3, 5, 10])
def test_a_write_into_a_layer_shortens_what_is_believed(changed: int, top: Path) -> None:
    """With 11 layers there is an index of 3 of them, and of 11."""
    index(top)
    qemu.io(top.with_name(f"{changed}.qcow2"), ["write -P 99 1M 1M"])
    assert num_indexed(top) == (3 if changed >= 3 else 0)
    built = index(top)
    assert built.num_reused == (3 if changed >= 3 else 0)
    assert num_indexed(top) == 11


def test_a_commit_into_the_middle(top: Path) -> None:
    index(top)
    middle = top.with_name("6.qcow2")
    qemu.img("commit", "-q", "-f", "qcow2", "-d", middle)
    above = top.with_name("7.qcow2")
    qemu.img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "5.qcow2", above)
    middle.unlink()
    expected = qemu.contents(top)
    assert num_indexed(top) == 3
    assert index(top).num_layers == 10
    assert num_indexed(top) == 10
    with Chain(top) as chain:
        assert chain.read_at(0, chain.size) == expected


def test_a_rebase_to_another_file(top: Path, tmp_path: Path) -> None:
    index(top)
    other = qemu.create(tmp_path / "other.qcow2", 40 * MIB)
    qemu.io(other, ["write -P 3 0 40M"])
    qemu.img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", other.name, top)
    assert num_indexed(top) == 0
    qemu.img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "10.qcow2", top)
    assert num_indexed(top) == 11


def test_a_file_that_another_took_the_place_of(top: Path) -> None:
    index(top)
    layer = top.with_name("5.qcow2")
    status = layer.stat()
    other = top.with_name("other.qcow2")
    shutil.copy(top.with_name("4.qcow2"), other)
    other.write_bytes(other.read_bytes().ljust(status.st_size, b"\0")[: status.st_size])
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    shutil.copy2(layer, top.with_name("kept"))
    other.replace(layer)
    assert num_indexed(top) == 3


def test_a_touched_layer_is_proved_by_its_digest(top: Path) -> None:
    index(top)
    os.utime(top.with_name("0.qcow2"))
    assert num_indexed(top) == 0
    assert num_indexed(top, by_digest=True) == 11
    built = index(top)
    assert built.num_reused == 11
    # The records of the layers, and no leaf.
    assert 0 < built.written_bytes < 5120
    assert num_indexed(top) == 11


@pytest.mark.parametrize("command", [["cp", "-a"], ["cp"]])
def test_a_copied_chain_is_proved_by_its_digests(
    command: list[str], top: Path, tmp_path: Path
) -> None:
    index(top)
    copy = tmp_path / "copy"
    copy.mkdir()
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    subprocess.run([*command, *files, copy], check=True)
    assert num_indexed(copy / top.name) == 0
    assert num_indexed(copy / top.name, by_digest=True) == 11
    assert index(copy / top.name).num_reused == 11
    assert num_indexed(copy / top.name) == 11
    # A record of the copied index means a file of the copy.
    with StoredIndex.find(copy / "10.qcow2") as found:
        assert {found.path_of(record.name) for record in found.layers} == {
            copy / f"{number}.qcow2" for number in range(11)
        }


def test_a_copied_chain_that_was_changed_is_not_proved(top: Path, tmp_path: Path) -> None:
    index(top)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tmp_path.glob("*.qcow2*"):
        shutil.copy(path, copy)
    layer = copy / "5.qcow2"
    num_bytes = layer.stat().st_size
    qemu.io(layer, ["discard 0 20M"])
    os.truncate(layer, num_bytes)
    assert num_indexed(copy / top.name, by_digest=True) == 3
    assert index(copy / top.name).num_reused == 3
    assert num_indexed(copy / top.name) == 11


def test_with_digests_alone_time_stamps_prove_nothing(top: Path) -> None:
    index(top)
    assert index(top, prove="digest").written_bytes == 0
    # What the digest does not match is merged again, though the time stamps say nothing.
    path = top.with_name("5.qcow2")
    status = path.stat()
    qemu.io(path, ["discard 0 20M"])
    os.truncate(path, status.st_size)
    assert index(top, prove="digest").num_reused == 3
    assert num_indexed(top) == 11


def test_a_file_that_was_just_written_is_believed_only_by_its_digest(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    index(top)
    assert num_indexed(top) == 0
    assert num_indexed(top, by_digest=True) == 11
    let_time_pass(monkeypatch)
    assert index(top).num_reused == 11
    assert num_indexed(top) == 11


def test_a_snapshot_carries_the_index_forward(tmp_path: Path) -> None:
    """50 times: what is appended is what the new layer touches."""
    num_mib = 1024  # 32 leaves: 160 KiB
    place = random.Random(4)
    path = qemu.create(tmp_path / "0.qcow2", num_mib * MIB)
    starts = range(0, num_mib, 32)
    qemu.io(path, [f"write -P 1 {start}M 64k" for start in starts])
    path = qemu.create(tmp_path / "1.qcow2", None, path)
    index(path)
    appended = []
    for number in range(2, 52):
        qemu.io(path, [f"write -P {number} {place.randrange(num_mib)}M 64k"])
        path = qemu.create(tmp_path / f"{number}.qcow2", None, path)
        built = index(path)
        assert (built.num_layers, built.num_reused) == (number, number - 1)
        appended.append(built.written_bytes)
        if number % 10 == 0:
            assert num_indexed(path) == number
    # A leaf and the node above it: 9232 bytes; a commit, and some records.
    assert min(appended) > 9232
    assert max(appended) < 9232 + 60 * 128 + 128
    assert sum(appended) / len(appended) < 10_500
    assert num_indexed(path) == 51
    # All names are of one file, and each overlay of any of these layers has its index there.
    assert len({sidecar_of(tmp_path / f"{n}.qcow2").stat().st_ino for n in range(51)}) == 1
    for number in (1, 13, 32, 50):
        assert num_indexed(tmp_path / f"{number}.qcow2") == number


def test_two_overlays_of_one_layer(top: Path, tmp_path: Path) -> None:
    index(top)
    tops = []
    for name in ("left", "right"):
        layer = qemu.create(tmp_path / f"{name}.qcow2", None, top.with_name("10.qcow2"))
        qemu.io(layer, [f"write -P {len(name)} {len(name)}M 3M"])
        tops.append(qemu.create(tmp_path / f"{name}-top.qcow2", None, layer))
    for path in tops:
        assert index(path).num_reused == 11
    assert [num_indexed(path) for path in tops] == [12, 12]
    assert num_indexed(top) == 11
    names = [sidecar_of(tmp_path / f"{name}.qcow2") for name in ("left", "right", "10")]
    assert len({name.stat().st_ino for name in names}) == 1


def test_an_index_that_grew_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_SLACK_BYTES", 0)
    path = qemu.create(tmp_path / "0.qcow2", 64 * MIB)
    qemu.io(path, ["write -P 1 0 64M"])
    sizes = []
    for number in range(1, 30):
        path = qemu.create(tmp_path / f"{number}.qcow2", None, path)
        sizes.append(index(path).file_bytes)
        assert num_indexed(path) == number
        qemu.io(path, [f"write -P {number} {number}M 1M"])
    assert any(later < earlier for earlier, later in itertools.pairwise(sizes))
    assert max(sizes) < 5 * 9 * 9232
    # The old file has no name left, and the new one serves overlays of the layers below.
    assert len({sidecar_of(tmp_path / f"{n}.qcow2").stat().st_ino for n in range(29)}) == 1
    assert num_indexed(tmp_path / "25.qcow2") == 21


def test_layers_in_several_directories(tmp_path: Path) -> None:
    (tmp_path / "bases").mkdir()
    (tmp_path / "images").mkdir()
    base = qemu.create(tmp_path / "bases" / "base.qcow2", 8 * MIB)
    qemu.io(base, ["write -P 1 0 4M"])
    first = tmp_path / "bases" / "first.qcow2"
    qemu.create(first, None, base)
    assert index(first).num_layers == 1
    middle, top = tmp_path / "images" / "middle.qcow2", tmp_path / "images" / "top.qcow2"
    qemu.img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", middle)
    qemu.io(middle, ["write -P 2 1M 4M"])
    qemu.create(top, None, middle)
    with Chain(top, allow_backing=True) as chain:
        built = build(chain.images[:-1])
        assert built.num_reused == 1
        with StoredIndex.find(middle) as found:
            identities = [image.file.identity for image in chain.images]
            assert found.valid_prefix(identities) == 2
            assert [found.path_of(record.name) for record in found.layers] == [base, middle]


@pytest.mark.parametrize("upper", [512, 4096, 65536, 2 * MIB])
@pytest.mark.parametrize("lower", [512, 65536, 2 * MIB])
def test_layers_of_other_cluster_sizes(lower: int, upper: int, tmp_path: Path) -> None:
    base = qemu.raw(tmp_path / "base.raw", random.Random(1).randbytes(3 * MIB))
    first = qemu.create(tmp_path / "1.qcow2", 8 * MIB, base, cluster_size=lower)
    qemu.io(first, ["write -P 1 1M 64k", "write -z 2M 64k", "write -c -P 3 4M 2M"])
    second = qemu.create(tmp_path / "2.qcow2", None, first, cluster_size=upper)
    qemu.io(second, ["write -P 2 1030k 64k", "write -P 7 5M 1"])
    third = qemu.create(tmp_path / "3.qcow2", 9 * MIB, second)
    index(second)
    assert num_indexed(second) == 2
    index(third)
    assert num_indexed(third) == 3
    # Two overlays of one layer, of which the other one has small clusters.
    fourth = qemu.create(tmp_path / "4.qcow2", None, first, cluster_size=2 * MIB)
    assert num_indexed(fourth) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"extended_l2": "on"},
        {"compat": "0.10"},
        {"compression_type": "zstd"},
        {"data_file": "data.bin"},
    ],
)
def test_layers_of_other_kinds(options: dict[str, str], tmp_path: Path) -> None:
    if "data_file" in options:
        options = {"data_file": str(tmp_path / "data.bin")}
    base = qemu.create(tmp_path / "0.qcow2", 4 * MIB)
    qemu.io(base, ["write -P 1 0 4M"])
    middle = qemu.create(tmp_path / "1.qcow2", 5 * MIB, base, **options)
    compressed = [] if "data_file" in options else ["write -c -P 4 3M 64k"]
    qemu.io(middle, ["write -P 2 1M 70k", "write -z 2M 100k", "discard 4M 64k", *compressed])
    top = qemu.create(tmp_path / "2.qcow2", None, middle)
    index(top)
    assert num_indexed(top) == 2


def test_an_index_of_more_granules_than_a_node_has(tmp_path: Path) -> None:
    """Clusters of 512 bytes: 2048 leaves, four nodes, and a disk that grew in between."""
    base = qemu.create(tmp_path / "0.qcow2", 100 * MIB, cluster_size=512)
    qemu.io(base, ["write -P 1 1M 1M", "write -P 2 99M 100k"])
    middle = qemu.create(tmp_path / "1.qcow2", 512 * MIB, base, cluster_size=512)
    assert index(middle).num_layers == 1
    qemu.io(middle, ["write -P 3 300M 1M", "write -P 4 2M 100k", "write -P 5 511M 1M"])
    top = qemu.create(tmp_path / "2.qcow2", None, middle)
    assert index(top).num_reused == 1
    assert num_indexed(top) == 2


def test_an_index_that_cannot_be_written_is_an_error_that_names_it(top: Path) -> None:
    sidecar_of(top.with_name("10.qcow2")).mkdir()
    with pytest.raises(ImageError, match=r"10\.qcow2\.hatchway-index cannot be written"):
        index(top)
    assert not list(top.parent.glob(".hatchway*"))


def test_a_damaged_layer_is_named_and_leaves_nothing(top: Path) -> None:
    layer = top.with_name("4.qcow2")
    qemu.io(layer, ["write -P 1 0 64k"])
    with layer.open("r+b") as file:
        file.seek(0x30000)
        file.write((1 << 63 | 1 << 40).to_bytes(8, "big"))
    with pytest.raises(ImageError, match=r"4\.qcow2"):
        index(top)
    assert not list(top.parent.glob("*.hatchway-index"))
