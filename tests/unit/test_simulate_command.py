"""``hatchway simulate`` reads recorded times, prints what was assumed, and names bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hatchway.cli import main
from hatchway.loader.simulator import LOADERS, TITLES

SKEWED = "seconds\n" + "0.01\n0.01\n0.3\n" * 20


def times(folder: Path, text: str) -> str:
    path = folder / "times.csv"
    path.write_text(text)
    return str(path)


def test_the_table_has_each_loader_and_what_was_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", times(tmp_path, SKEWED), "--workers", "4", "--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "60 samples" in printed
    assert "Assumed: shuffled (seed 0); samples wait" in printed
    for title in TITLES.values():
        (line,) = (line for line in printed.splitlines() if title in line)
        assert len(line.split("  ")) > 9  # a row stays a row


def test_devices_that_do_not_share_workers_are_said_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = times(tmp_path, SKEWED)
    assert main(["simulate", path, "--workers", "4", "--devices", "2", "--cores", "3"]) == 0
    printed = capsys.readouterr().out
    assert "2 devices train in step, each with its own rank" in printed
    assert "at most 3 at full speed" in printed


def test_json_holds_the_figures_of_every_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = times(tmp_path, SKEWED)
    options = [
        "--workers",
        "48",
        "--devices",
        "4",
        "--step",
        "0.2",
        "--batch-size",
        "2",
        "--epochs",
        "3",
        "--json",
    ]
    assert main(["simulate", path, *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert [one["loader"] for one in document["loaders"]] == list(LOADERS)
    for loader in document["loaders"]:
        assert len(loader["epochs"]) == 3
        for epoch in loader["epochs"]:
            assert epoch["num_samples"] == 60
            assert epoch["step_s"] == 0.2
            assert epoch["epoch_s"] >= epoch["limit_s"]


def test_only_the_order_asked_for_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", times(tmp_path, SKEWED), "--order", "strict", "--json"]) == 0
    shown = [one["loader"] for one in json.loads(capsys.readouterr().out)["loaders"]]
    assert "strict" in shown
    assert "ready" not in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seconds\n0.1\nfast\n", "line 3: 'fast' is not a number of seconds from 0 on"),
        ("seconds\n0.1\n-2\n", "line 3: '-2' is not"),
        ("seconds\nnan\n", "line 2: 'nan' is not"),
        ("seconds\ninf\n", "line 2: 'inf' is not"),
        ("index,seconds\n0,0.1\n1\n", "line 3: '' is not"),
        ("0.1\n0.2\n", "line 1: no column 'seconds' in '0.1'"),
        ("", "no column 'seconds'"),
        ("seconds\n", "holds no samples"),
    ],
)
def test_bad_times_are_refused_with_file_line_value_and_way_out(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = times(tmp_path, text)
    assert main(["simulate", path]) == 2
    printed = capsys.readouterr()
    assert path in printed.err
    assert said in printed.err
    assert not printed.out


def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", str(tmp_path / "missing.csv")]) == 2
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "times.csv").write_bytes(b"seconds\n\xff\xfe\n")
    assert main(["simulate", str(tmp_path / "times.csv")]) == 2
    assert "not a CSV file in UTF-8" in capsys.readouterr().err


def test_fewer_workers_than_devices_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", times(tmp_path, SKEWED), "--workers", "2", "--devices", "3"]) == 2
    assert "--workers 2 is less than --devices 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--workers", "0"),
        ("--step", "-1"),
        ("--step", "soon"),
        ("--cores", "0"),
        ("--overhead", "nan"),
        ("--max-displacement", "-1"),
        ("--order", "auto"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", times(tmp_path, SKEWED), f"{option}={value}"])
    assert ended.value.code == 2
    assert option in capsys.readouterr().err


def test_it_runs_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from hatchway.cli import main; "
        f"main(['simulate', {times(tmp_path, SKEWED)!r}]); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_workers_that_follow_the_load_are_more_than_it_began_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = times(tmp_path, "seconds\n" + "0.05\n" * 2000)
    options = ["--workers", "2", "--step", "0.01", "--epochs", "1", "--json"]
    epochs_s = []
    for more in ([], ["--max-workers", "16"]):
        assert main(["simulate", path, *options, *more]) == 0
        loaders = {one["loader"]: one for one in json.loads(capsys.readouterr().out)["loaders"]}
        epochs_s.append(loaders["strict"]["epochs"][0]["epoch_s"])
    assert epochs_s[1] < epochs_s[0] / 4


def test_a_bound_below_what_it_begins_with_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", times(tmp_path, SKEWED), "--max-workers", "4"]) == 2
    assert "--max-workers 4 is less than a device's share of --workers 8" in (
        capsys.readouterr().err
    )
