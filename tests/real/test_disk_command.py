"""``hatchway disk`` says what a chain is made of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hatchway.cli import main
from tests.real import qemu

pytestmark = [pytest.mark.real, qemu.needs_qemu]

MIB = 1024 * 1024


@pytest.fixture
def top(tmp_path: Path) -> Path:
    base = qemu.create(tmp_path / "base.qcow2", 4 * MIB)
    qemu.io(base, ["write -P 1 0 1M", "write -c -P 3 3M 64k"])
    qemu.img("snapshot", "-c", "before", base)
    path = qemu.create(tmp_path / "top.qcow2", None, base, extended_l2="on")
    qemu.io(path, ["write -P 2 0 512k"])
    return path


def test_info_shows_each_file_with_its_share(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["disk", "info", str(top)]) == 0
    title, active, base, nowhere = capsys.readouterr().out.splitlines()
    assert title == "4.0 MiB in 2 files, the active one first"
    assert " 12.5%  512.0 KiB" in active
    assert f"{top} (qcow2 version 3, " in active
    assert "subclusters" in active
    assert " 14.1%  576.0 KiB" in base
    assert "1 internal snapshots" in base
    assert "nowhere: reads as zeros" in nowhere


def test_info_in_json(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["disk", "info", "--json", str(top)]) == 0
    said = json.loads(capsys.readouterr().out)
    active, base = said["files"]
    assert said["size_bytes"] == 4 * MIB
    assert said["empty_bytes"] == 4 * MIB - active["held_bytes"] - base["held_bytes"]
    assert (active["layer"], active["path"]) == (1, str(top))
    assert base["snapshots"][0]["name"] == "before"


def test_map_shows_each_extent(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["disk", "map", str(top)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    kinds = [(line[0], line[1], line[2], line[3]) for line in lines[1:]]
    assert kinds == [
        ("0", "524288", "data", "1"),
        ("524288", "524288", "data", "0"),
        ("1048576", "2097152", "hole", "-"),
        ("3145728", "65536", "compressed", "0"),
        ("3211264", "983040", "hole", "-"),
    ]
    assert main(["disk", "map", "--json", str(top)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [one["length"] for one in said] == [int(line[1]) for line in kinds]
    assert said[0]["path"] == str(top)


def test_an_empty_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = qemu.create(tmp_path / "one.qcow2", 0)
    assert main(["disk", "map", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["disk", "info", str(path)]) == 0


def test_a_chain_that_cannot_be_read_is_one_line(
    top: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    top.with_name("base.qcow2").unlink()
    assert main(["disk", "info", str(top)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "base.qcow2 cannot be opened: No such file" in said.err


def test_allowed_directories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bases").mkdir()
    (tmp_path / "tops").mkdir()
    base = qemu.create(tmp_path / "bases" / "base.qcow2", MIB)
    path = tmp_path / "tops" / "top.qcow2"
    qemu.img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path)
    assert main(["disk", "info", str(path)]) == 1
    assert "--allow-backing" in capsys.readouterr().err
    assert main(["disk", "info", "--allow-backing", str(path)]) == 0
    assert main(["disk", "info", "--allow-backing-in", str(base.parent), str(path)]) == 0


def test_a_reader_that_has_enough_is_no_error(top: Path) -> None:
    command = f"{sys.executable} -m hatchway.cli disk map {top} | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, timeout=50, check=False)
    assert done.stderr == b""
    assert done.stdout.count(b"\n") == 1


def test_bench_says_how_fast_the_chain_is_read(
    top: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["disk", "bench", "--seconds", "0.05", "--json", str(top)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["files"], said["indexed_files"], said["size_bytes"]) == (2, 0, 4 * MIB)
    assert min(said[name] for name in ("open_s", "random_reads_per_s")) > 0
    assert said["sequential_bytes_per_s"] > MIB
    assert main(["disk", "bench", "--seconds", "0.05", str(top)]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("2 files, 0 of them by an index; opened in ")
    assert len(others) == 3
