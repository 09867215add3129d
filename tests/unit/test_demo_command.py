"""``hatchway demo`` as a person runs it, and stops it."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console
from torch.utils.data import DataLoader

from hatchway.cli.demo import add_arguments, command, run
from hatchway.cli.demo.screen import Screen
from hatchway.cli.demo.show import Show
from hatchway.cli.demo.workspace import Workspace


class StockInDisguise(DataLoader):  # type: ignore[type-arg]
    """Stock torch with Hatchway's arguments, to test the demo apart from the loader."""

    def __init__(
        self, *args: object, order: str, max_background_workers: int, **options: object
    ) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]


class LoaderThatLosesTheLastBatch(StockInDisguise):
    def __iter__(self) -> Any:
        *delivered, _ = super().__iter__()
        yield from delivered


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(argv)


@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_counts_must_be_positive(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--workers", value)
    assert "whole number above 0" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "quick"), [("1", True), ("0", False), ("", False)])
def test_the_environment_can_ask_for_the_quick_demo(
    value: str, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HATCHWAY_DEMO_QUICK", value)
    assert parse().quick is quick


def test_a_missing_package_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "nibabel" else 1)
    assert run(parse()) == 2
    assert capsys.readouterr().err == (
        "hatchway demo: needs nibabel: pip install '.[demo]' in the clone\n"
    )


def test_a_picture_in_no_folder_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(parse("--output", str(tmp_path / "none" / "demo.png"))) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_workspace_takes_its_folder_and_its_signal_handlers_away() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Workspace() as workspace:
        (workspace.folder / "file").touch()
        assert signal.getsignal(signal.SIGINT) != before
    assert not workspace.folder.exists()
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_quick_demo_compares_all_loaders_and_checks_what_they_delivered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, figures = tmp_path / "demo.png", tmp_path / "demo.json"
    arguments = ("--quick", "--epochs", "1", "--output", str(output), "--json", str(figures))
    assert run(parse(*arguments)) == 0
    text = capsys.readouterr().out
    assert "each of the 48 cases exactly once" in text
    assert output.read_bytes().startswith(b"\x89PNG")
    loaders = json.loads(figures.read_text())["loaders"]
    assert loaders[0]["name"] == "torch DataLoader"
    assert any(loader["name"] == "Hatchway" for loader in loaders)
    for loader in loaders:
        assert len(loader["epochs"][0]["busy"]) == 24
        assert loader["name"] in text


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_loader_that_loses_samples_fails_the_demo(tmp_path: Path) -> None:
    stream = io.StringIO()
    args = parse("--quick", "--epochs", "1", "--output", str(tmp_path / "demo.png"))
    with Workspace() as workspace:
        show = Show(
            args,
            workspace.folder,
            hatchway_loader=LoaderThatLosesTheLastBatch,
            screen=Screen(Console(file=stream, width=80)),
        )
        assert show.run() == 1
    assert "Hatchway: case" in stream.getvalue()


def group_of(leader: int) -> list[psutil.Process]:
    """The processes of a group that run; one that nobody has reaped yet does not."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            is_zombie = process.status() == psutil.STATUS_ZOMBIE
            if os.getpgid(process.pid) == leader and not is_zombie:
                found.append(process)
    return found


# Lines after which the demo is stopped: before the data is read, before the samples are timed,
# and amid the first loader's epoch, which prints nothing until it ends.
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("last_line_before", ["No GPU", "Data:", "Stand-in:"])
def test_ctrl_c_ends_at_once_with_one_line_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals, last_line_before: str
) -> None:
    temporary, current = tmp_path / "temporary", tmp_path / "current"
    temporary.mkdir()
    current.mkdir()
    demo = subprocess.Popen(
        [sys.executable, "-u", "-m", "hatchway.cli", "demo", "--quick"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=current,
        env={**os.environ, "TMPDIR": str(temporary), "COLUMNS": "200"},
        start_new_session=True,
        # A test run in the background of a shell is started with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert demo.stdout is not None
    with demo, demo.stdout as lines:
        assert any(line.startswith(last_line_before) for line in lines)
        # As a terminal does: the workers get the signal as well.
        os.killpg(demo.pid, number)
        rest = lines.read()
    assert demo.returncode == 128 + number
    assert rest.splitlines()[-1].startswith("Interrupted: ")
    assert "Traceback" not in rest
    assert list(temporary.iterdir()) == []
    assert list(current.iterdir()) == []
    psutil.wait_procs(group_of(demo.pid), timeout=5)
    assert group_of(demo.pid) == []
