"""Each benchmark beside stock torch runs at its smallest, and writes what it measured."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hatchway.memory import BackendUnavailableError
from hatchway.memory.userfault import AsyncWriteProtection
from tests.real import qemu

ROOT = Path(__file__).parents[2]


def run(*command: str) -> str:
    done = subprocess.run(
        (sys.executable, "-m", *command), cwd=ROOT, check=True, timeout=55, capture_output=True
    )
    return done.stdout.decode()


def loaders(runs: list[dict[str, Any]]) -> list[str]:
    assert all(one["error"] is None for one in runs)
    return [one["loader"] for one in runs]


def test_start_up(tmp_path: Path) -> None:
    path = tmp_path / "start_up.json"
    arguments = ("--methods", "fork", "--workers", "2", "--repeats", "1", "--json", str(path))
    assert "fork" in run("benchmarks.start_up", *arguments)
    report = json.loads(path.read_text())
    ((wall_s, processor_s),) = report["imports"]
    assert wall_s > 0
    assert processor_s > 0
    (setting,) = report["settings"]
    assert loaders(setting["runs"]) == ["torch", "hatchway"]
    assert all(one["first_batch_s"] > 0 for one in setting["runs"])


def test_memory_of_python_objects(tmp_path: Path) -> None:
    path = tmp_path / "copy_on_write.json"
    arguments = ("--objects", "20000", "--samples", "2000", "--repeats", "1", "--json", str(path))
    assert "list of str" in run("benchmarks.copy_on_write", *arguments)
    runs = json.loads(path.read_text())["runs"]
    assert loaders(runs) == ["torch", "hatchway"] * 2
    assert all(one["growth_bytes"] > 0 for one in runs)


def test_rows_of_a_table() -> None:
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("datasets is not installed (`make test` installs it)")
    shown = run("benchmarks.tables", "--rows", "640", "--repeats", "1")
    assert "torch: " in shown
    assert "over torch 1.00" in shown
    assert "Hatchway: " in shown


@qemu.needs_qemu
def test_reads_of_a_chain(tmp_path: Path) -> None:
    path = tmp_path / "chain_reads.json"
    arguments = ("--lengths", "3", "--repeats", "1", "--reads", "1000", "--mib", "64")
    arguments += ("--json", str(path))
    assert "over pread" in run("benchmarks.disk.reads", *arguments)
    runs = json.loads(path.read_text())["runs"]
    assert loaders(runs) == ["1", "3"]
    assert all(one["reads_per_s"] > 0 and one["stock_open_s"] > 0 for one in runs)


@qemu.needs_qemu
@pytest.mark.skipif(
    shutil.which("fio") is None, reason="no fio here (`make setup-system` installs it)"
)
def test_serving_of_a_chain(tmp_path: Path) -> None:
    path = tmp_path / "serving.json"
    arguments = ("--kinds", "over,sparse", "--lengths", "3", "--repeats", "1", "--mib", "4")
    arguments += ("--overwritten", "5", "--seconds", "0.05", "--json", str(path))
    shown = run("benchmarks.disk.serving", *arguments)
    runs = json.loads(path.read_text())["runs"]
    for kind in ("over", "sparse"):
        assert f"{kind}: what it takes" in shown
        assert f"{kind}: memory" in shown
        assert sorted((one["length"], one["server"]) for one in runs if one["kind"] == kind) == [
            (1, "hatchway"),
            (1, "qemu-nbd"),
            (3, "hatchway"),
            (3, "qemu-nbd"),
        ]
    assert all(one["resident_bytes"] >= one["private_bytes"] > 0 for one in runs)
    assert all(one["depth_16"] > 0 and one["ready_s"] > 0 for one in runs)


def test_dirty_pages(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler (`make setup-system` installs one)")
    try:
        AsyncWriteProtection().close()
    except BackendUnavailableError as reason:
        pytest.skip(str(reason))
    path = tmp_path / "dirty.json"
    arguments = ("--mib", "1", "--shares", "10", "--repeats", "1", "--json", str(path))
    assert "default" in run("benchmarks.memory.dirty", *arguments)
    (setting,) = json.loads(path.read_text())["settings"]
    assert loaders(setting["runs"]) == ["bare", "pagemap_scan", "default", "hash"]
    assert all(one["answered"] == 1 for one in setting["runs"])


def test_saving(tmp_path: Path) -> None:
    path = tmp_path / "saving.json"
    arguments = ("--mib", "4", "--shares", "10", "--repeats", "1", "--json", str(path))
    shown = run("benchmarks.memory.saving", *arguments, "--directory", str(tmp_path), "--synced")
    assert "torch.save" in shown
    runs = json.loads(path.read_text())["runs"]
    assert loaders(runs) == ["hatchway", "torch"]
    assert all(0 < one["file_bytes"] < 2 << 20 for one in runs)
    assert list(tmp_path.iterdir()) == [path]
