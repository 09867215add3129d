"""``hatchway disk index`` makes, keeps up and drops the stored index of a chain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hatchway.cli import main
from hatchway.disk.index import building, sidecar_of
from hatchway.disk.index.appending import Appender
from tests.real import qemu
from tests.real.indexed import MIB, let_time_pass, num_indexed

pytestmark = [pytest.mark.real, qemu.needs_qemu]


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    let_time_pass(monkeypatch)
    base = qemu.create(tmp_path / "base.qcow2", 4 * MIB)
    qemu.io(base, ["write -P 1 0 1M"])
    return qemu.create(tmp_path / "top.qcow2", None, base)


def test_it_says_what_it_wrote(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["disk", "index", str(top)]) == 0
    path = sidecar_of(top.with_name("base.qcow2"))
    said = capsys.readouterr()
    assert said.out.startswith(f"{path}: 1 layers, 0 of them as they were; 1 leaves; ")
    assert said.err == ""
    assert num_indexed(top) == 1
    assert main(["disk", "index", "--json", "--prove", "digest", str(top)]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again.pop("seconds") >= 0
    assert again == {
        "path": str(path),
        "num_layers": 1,
        "num_reused": 1,
        "num_leaves": 1,
        "written_bytes": 0,
        "file_bytes": path.stat().st_size,
    }


def test_dropping_removes_the_indexes_of_the_chain(
    top: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["disk", "index", str(top)]) == 0
    path = sidecar_of(top.with_name("base.qcow2"))
    capsys.readouterr()
    assert main(["disk", "index", "--drop", str(top)]) == 0
    assert capsys.readouterr().out == f"removed {path}\n"
    assert not path.exists()
    assert main(["disk", "index", "--drop", "--json", str(top)]) == 0
    assert json.loads(capsys.readouterr().out) == {"dropped": []}


def test_an_image_without_a_backing_file_is_not_indexed(
    top: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["disk", "index", str(top.with_name("base.qcow2"))]) == 1
    assert "has no backing file" in capsys.readouterr().err


def test_an_interrupted_build_leaves_nothing(
    top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(appender: Appender) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(building.Appender, "finish", interrupt)
    assert main(["disk", "index", str(top)]) == 130
    assert capsys.readouterr().err == "hatchway disk: interrupted\n"
    assert {path.suffix for path in top.parent.iterdir()} == {".qcow2"}
