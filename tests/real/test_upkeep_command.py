"""``hatchway disk`` keeps chains in order, and QEMU opens what it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hatchway.cli import main
from hatchway.disk import (
    BackingFileError,
    Chain,
    ImageError,
    LockedImageError,
    UnsupportedImageError,
    commit,
    files,
    merge,
    rebase,
    snapshot,
)
from hatchway.disk.active import OpenFile
from hatchway.disk.index import sidecar_of
from tests.real import qemu

pytestmark = [pytest.mark.real, qemu.needs_qemu]

MIB = 1024 * 1024


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Three layers of 4 MiB."""
    path = qemu.create(tmp_path / "0.qcow2", 4 * MIB)
    qemu.io(path, ["write -P 1 0 1M"])
    for number in (1, 2):
        path = qemu.create(tmp_path / f"{number}.qcow2", None, path)
        qemu.io(path, [f"write -P {number + 1} {number}M 1M"])
    return path


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    """What a command prints as JSON."""
    assert main(["disk", *map(str, arguments), "--json"]) == 0
    found = capsys.readouterr()
    assert found.err == ""
    told: dict[str, object] = json.loads(found.out)
    return told


def test_a_snapshot_is_an_empty_overlay_in_the_form_of_the_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = qemu.create(tmp_path / "old.qcow2", 4 * MIB, cluster_size=32768, extended_l2="on")
    new = tmp_path / "below" / "new.qcow2"
    new.parent.mkdir()
    assert said(capsys, "snapshot", old, new) == {
        "path": str(new),
        "backing_name": "../old.qcow2",
        "backing_format": "qcow2",
        "size": 4 * MIB,
        "built": None,
        "index_error": None,
    }
    info = json.loads(qemu.img("info", "--output=json", new))
    assert info["full-backing-filename"] == str(new.parent / "../old.qcow2")
    assert info["backing-filename-format"] == "qcow2"
    assert info["cluster-size"] == 32768
    assert info["format-specific"]["data"]["extended-l2"] is True
    assert main(["disk", "snapshot", str(old), str(new)]) == 1
    assert "is there already" in capsys.readouterr().err


def test_a_snapshot_carries_the_index_forward(
    top: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third, fourth = (top.with_name(f"{number}.qcow2") for number in (3, 4))
    assert said(capsys, "snapshot", top, third)["built"] is None
    assert said(capsys, "snapshot", third, fourth, "--index")["built"] is not None
    assert sidecar_of(third).exists()
    fifth = top.with_name("5.qcow2")
    assert main(["disk", "snapshot", str(fourth), str(fifth)]) == 0
    assert capsys.readouterr().out == f"{fifth}: 4.0 MiB over 4.qcow2; 5 layers indexed\n"
    with Chain(fifth) as chain:
        assert chain.read_at(2 * MIB, MIB) == b"\x03" * MIB


def test_a_commit_empties_the_image_or_keeps_it(
    top: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = qemu.contents(top)
    kept = said(capsys, "commit", top, "--keep")
    assert (kept["written_bytes"], kept["is_emptied"]) == (MIB, False)
    below = top.with_name("1.qcow2")
    assert qemu.contents(below) == content
    assert main(["disk", "commit", str(top)]) == 0
    assert capsys.readouterr().out == (
        f"{below}: 1.0 MiB written, 0 B made zeros; {top} is empty now\n"
    )
    assert top.stat().st_size < MIB
    assert said(capsys, "commit", top, "--into", 0)["written_bytes"] == 2 * MIB
    assert qemu.contents(top.with_name("0.qcow2")) == content == qemu.contents(top)
    for number in range(3):
        qemu.check(top.with_name(f"{number}.qcow2"))


def test_a_rebase_copies_what_would_be_missing(
    top: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, base = qemu.contents(top), top.with_name("0.qcow2")
    assert said(capsys, "rebase", top, "--backing", base) == {
        "path": str(top),
        "backing_name": "0.qcow2",
        "backing_format": "qcow2",
        "written_bytes": MIB,
    }
    assert main(["disk", "rebase", str(top), "--flatten"]) == 0
    assert capsys.readouterr().out == f"{top}: over no backing file now; 1.0 MiB copied into it\n"
    base.unlink()
    assert qemu.contents(top) == content
    qemu.check(top)


def test_only_the_name_changes_where_that_is_meant(top: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    top.with_name("0.qcow2").rename(moved / "0.qcow2")
    below = top.with_name("1.qcow2")
    rebase(below, moved / "0.qcow2", unsafe=True, backing_format="qcow2")
    with Chain(top) as chain:
        assert [image.path.parent for image in chain.images] == [moved, tmp_path, tmp_path]
        assert chain.read_at(0, 1) == b"\x01"
    with pytest.raises(ValueError, match="backing_format must be given"):
        rebase(below, moved / "0.qcow2", unsafe=True)


@pytest.mark.parametrize("cluster_size", [512, 1024, 4096, 65536])
@pytest.mark.parametrize("has_backing", [False, True])
def test_names_of_any_length_fit_or_are_refused(
    tmp_path: Path, cluster_size: int, has_backing: bool
) -> None:
    old = qemu.create(tmp_path / "old.qcow2", MIB) if has_backing else None
    top = qemu.create(tmp_path / "top.qcow2", MIB, old, cluster_size=cluster_size)
    extensions = top.read_bytes()[104:cluster_size].count(b"lazy refcounts")
    held = 0
    for length in (1, 8, 100, 300, 900, 20, 1000, 7):
        name = "d/" * (length // 2) + "x"
        try:
            rebase(top, tmp_path / name, unsafe=True, backing_format="raw")
        except UnsupportedImageError as error:
            assert "shorter name" in str(error)  # noqa: PT017
            assert cluster_size <= 1024
            continue
        info = json.loads(qemu.img("info", "-U", "--output=json", top))
        assert info["backing-filename"] == name
        assert info["backing-filename-format"] == "raw"
        assert top.read_bytes()[104:cluster_size].count(b"lazy refcounts") == extensions
        held += 1
    assert held >= (3 if cluster_size < 4096 else 8)
    rebase(top, None, unsafe=True)
    assert "backing-filename" not in json.loads(qemu.img("info", "--output=json", top))
    qemu.check(top)


def test_layers_become_one_while_others_read_them(
    top: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = qemu.contents(top)
    overlay = top.with_name("3.qcow2")
    snapshot(top, overlay)
    with Chain(overlay) as reader:
        told = said(capsys, "merge", overlay, "0", top, "--remove")
        assert told["num_layers"] == 3
        assert told["written_bytes"] == 3 * MIB
        assert reader.read_at(0, reader.size) == content
    assert sorted(path.name for path in top.parent.iterdir()) == ["2.qcow2", "3.qcow2"]
    assert qemu.contents(overlay) == content
    qemu.check(top)
    assert main(["disk", "merge", str(overlay), "0", "1"]) == 1
    assert "is not merged unless that is meant" in capsys.readouterr().err


def test_what_would_be_lost_is_not_merged(top: Path) -> None:
    qemu.img("snapshot", "-c", "before", top.with_name("1.qcow2"))
    with pytest.raises(UnsupportedImageError, match="internal snapshots, which would be lost"):
        merge(top, 0, 1)
    with pytest.raises(ValueError, match="no layer 7"):
        merge(top, 0, 7)
    with pytest.raises(ValueError, match="first must be a layer below last"):
        merge(top, 1, 1)
    with pytest.raises(ValueError, match="no file of the chain"):
        merge(top, __file__, 1)


def test_what_another_program_holds_is_refused(top: Path) -> None:
    with Chain(top, writable=True) as chain:
        with pytest.raises(LockedImageError):
            snapshot(top, top.with_name("3.qcow2"))
        with pytest.raises(LockedImageError):
            rebase(top, None)
        with pytest.raises(LockedImageError):
            merge(top, 0, 2, with_active=True)
        # The active image is none of these, and its writer goes on.
        merge(top, 0, 1)
        chain.write_at(3 * MIB, b"later")
    with Chain(top) as chain:
        assert chain.read_at(3 * MIB, 5) == b"later"
        assert chain.read_at(MIB, 1) == b"\x02"


@pytest.mark.parametrize(("size", "wanted"), [("8M", 8 * MIB), ("+1M", 5 * MIB)])
def test_a_disk_becomes_longer(
    top: Path, capsys: pytest.CaptureFixture[str], size: str, wanted: int
) -> None:
    assert said(capsys, "resize", top, size) == {
        "path": str(top),
        "size": wanted,
        "size_before": 4 * MIB,
    }
    assert json.loads(qemu.img("info", "--output=json", top))["virtual-size"] == wanted


def test_a_disk_becomes_shorter_only_where_that_is_meant(
    top: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["disk", "resize", str(top), "1M"]) == 1
    assert "pass shrink=True (--shrink)" in capsys.readouterr().err
    assert said(capsys, "resize", top, "1M", "--shrink")["size"] == MIB
    assert main(["disk", "resize", str(top), "much"]) == 1
    assert "a size must be a whole number" in capsys.readouterr().err


def test_what_would_change_unseen_is_refused(top: Path) -> None:
    qemu.img("snapshot", "-c", "before", top)
    for does in (lambda: commit(top), lambda: rebase(top, None)):
        with pytest.raises(UnsupportedImageError, match="internal snapshots, which see the"):
            does()
    with pytest.raises(ValueError, match="into must be a layer below"):
        commit(top, into=top)
    with pytest.raises(ImageError, match="has no backing file"):
        commit(top.with_name("0.qcow2"))
    with pytest.raises(BackingFileError, match="lies in the chain of"):
        rebase(top.with_name("0.qcow2"), top)


def test_data_files_are_read_and_written_but_not_lost(tmp_path: Path) -> None:
    base = qemu.create(tmp_path / "0.qcow2", MIB, data_file=tmp_path / "0.data")
    qemu.io(base, ["write -P 1 0 512k"])
    middle = qemu.create(tmp_path / "1.qcow2", None, base, data_file=tmp_path / "1.data")
    qemu.io(middle, ["write -P 2 256k 512k"])
    top = qemu.create(tmp_path / "2.qcow2", None, middle)
    qemu.io(top, ["write -P 3 128k 64k", "write -z 300k 100k"])
    content = qemu.contents(top)
    assert commit(top).is_emptied
    assert qemu.contents(top) == content == qemu.contents(middle)
    with pytest.raises(UnsupportedImageError, match="external data file, which would be lost"):
        merge(top, 0, 1)
    done = merge(top, 0, 2, with_active=True)
    data = [path.with_suffix(".data") for path in (base, middle)]
    assert set(done.unused) == {base, middle, *data}
    for path in done.unused:
        path.unlink()
    assert qemu.contents(top) == content
    qemu.check(top)


def test_a_snapshot_without_an_index_looks_at_one_file(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, open_to_read = [], files.open_to_read

    def noted(path: Path) -> int:
        opened.append(path)
        return open_to_read(path)

    monkeypatch.setattr(files, "open_to_read", noted)
    snapshot(top, top.with_name("3.qcow2"))
    assert opened == [top]


def test_an_interrupted_command_says_so_and_leaves_nothing_behind(
    top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in top.parent.iterdir()}

    def interrupt(file: OpenFile) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(OpenFile, "sync", interrupt)
    for arguments in (["merge", top, "0", "1"], ["snapshot", top, top.with_name("3.qcow2")]):
        assert main(["disk", *map(str, arguments)]) == 130
        assert capsys.readouterr().err == "hatchway disk: interrupted\n"
        assert {path: path.read_bytes() for path in top.parent.iterdir()} == before


def test_a_vast_empty_disk_takes_no_longer(tmp_path: Path) -> None:
    """Region by region these would take minutes, and the test end with a timeout."""
    path = qemu.create(tmp_path / "0.qcow2", 16 << 40)
    for number in (1, 2, 3):
        qemu.io(path, [f"write -P {number} {number}T 64k"])
        path = qemu.create(tmp_path / f"{number}.qcow2", None, path)
    merge(path, 0, 1)
    qemu.io(path, ["write -P 4 4T 64k"])
    assert commit(path).written_bytes == 65536
    assert rebase(path, tmp_path / "1.qcow2").written_bytes == 2 * 65536
    with Chain(path) as chain:
        held = [(extent.start >> 40, extent.length) for extent in chain.map(0, 1 << 30)]
        assert held == [(0, 1 << 30)]
        assert [chain.read_at(at << 40, 1) for at in (1, 2, 3, 4)] == [b"\1", b"\2", b"\3", b"\4"]
