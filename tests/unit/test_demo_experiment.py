"""One epoch of a loader, its checks, its picture and its table."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from hatchway.cli.demo.device import PacedDevice
from hatchway.cli.demo.experiment import EpochRecord, Summary, faults, run_epoch
from hatchway.cli.demo.picture import draw
from hatchway.cli.demo.report import report
from hatchway.cli.demo.screen import Screen
from hatchway.cli.demo.timeline import Timeline


def batches(*cases: list[int]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    return [(torch.zeros(1), torch.zeros(1), torch.tensor(numbers)) for numbers in cases]


def record(
    *steps: tuple[float, float], cases: tuple[int, ...] = (), losses: tuple[float, ...] = ()
) -> EpochRecord:
    return EpochRecord("stock", Timeline.from_steps(steps, started_s=0.0), cases, losses)


def test_an_epoch_notes_every_step_and_every_case() -> None:
    told: list[int] = []
    epoch = run_epoch(
        "stock", batches([2, 0], [1, 3], [4]), PacedDevice(0.001), on_batch=told.append
    )
    assert epoch.cases == (2, 0, 1, 3, 4)
    assert told == [2, 2, 1]
    assert len(epoch.timeline.busy) == 3
    assert epoch.timeline.first_batch_s >= 0
    assert epoch.num_displaced is None


@dataclass(frozen=True)
class Statistics:
    num_displaced: int = 7
    max_displacement: int = 3


class LoaderWithStatistics(list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]):
    def statistics(self) -> Statistics:
        return Statistics()


def test_a_loaders_statistics_are_kept_where_it_has_them() -> None:
    loader = LoaderWithStatistics(batches([0]))
    epoch = run_epoch("Hatchway", loader, PacedDevice(0.0), on_batch=lambda _: None)
    assert (epoch.num_displaced, epoch.max_displacement) == (7, 3)


def test_an_epoch_that_delivers_every_case_once_in_any_order_has_no_faults() -> None:
    assert faults(record(cases=(2, 0, 1)), 3) == []


def test_missing_repeated_and_foreign_cases_are_named() -> None:
    assert faults(record(cases=(0, 0, 5)), 2) == [
        "case 0 was delivered 2 times",
        "case 1 was delivered 0 times",
        "case 5 was delivered 1 times",
    ]


def test_the_shown_epoch_is_the_one_of_median_length() -> None:
    epochs = tuple(record((0.0, length_s)) for length_s in (3.0, 1.0, 2.0))
    summary = Summary("stock", epochs)
    assert summary.shown is epochs[2]
    assert Summary("stock", epochs[:2]).shown is epochs[1]
    assert summary.median(lambda timeline: timeline.epoch_s) == 2.0
    assert summary.spread(lambda timeline: timeline.epoch_s) == (1.0, 3.0)


@pytest.fixture
def summaries() -> list[Summary]:
    return [
        Summary("torch DataLoader", (record((1.0, 2.0), (4.0, 5.0)),)),
        Summary("Hatchway", (record((0.5, 1.5), (1.5, 2.5)),)),
    ]


def printed(summaries: list[Summary], *, width: int = 80) -> str:
    stream = io.StringIO()
    screen = Screen(Console(file=stream, width=width, color_system=None))
    screen.table(summaries, title="title", floor="floor")
    return stream.getvalue()


def test_the_table_shows_what_was_measured(summaries: list[Summary]) -> None:
    lines = [line.split() for line in printed(summaries).splitlines()]
    stock = ["torch", "DataLoader", "5.00", "s", "1.00", "40%", "1.00", "s", "2.00", "s"]
    assert stock in lines
    assert ["Hatchway", "2.50", "s", "0.50", "80%", "0.50", "s", "0.00", "s"] in lines


def test_several_epochs_add_their_range_and_still_fit_80_columns(summaries: list[Summary]) -> None:
    several = Summary(
        "torch, prefetch_factor=8", (record((0.0, 11.0), (12.0, 15.0)), record((0.0, 16.0)))
    )
    text = printed([several])
    assert "15.0..16.0" in text
    assert "…" not in text


def test_the_line_of_a_trained_epoch_shows_its_loss_from_first_to_last_tenth() -> None:
    stream = io.StringIO()
    screen = Screen(Console(file=stream, width=100))
    losses = (1.0,) * 10 + (0.5,) * 80 + (0.25,) * 10
    screen.finished("stock", record((0.0, 2.0), losses=losses))
    assert "loss 1.00 to 0.25" in stream.getvalue()


def test_the_progress_line_leaves_nothing_on_a_terminal_but_cleared_lines() -> None:
    stream = io.StringIO()
    screen = Screen(Console(file=stream, width=80, force_terminal=True))
    with screen.progress("torch DataLoader", 4) as advance:
        advance(4)
    assert "torch DataLoader" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[2K")


def test_the_picture_shows_waits_in_red(tmp_path: Path, summaries: list[Summary]) -> None:
    path = tmp_path / "demo.png"
    draw(summaries, path, title="a paced stand-in", subtitle="2 workers")
    picture = Image.open(path).convert("RGB")
    colours = dict((colour, n) for n, colour in picture.getcolors(1 << 20) or [])
    red, blue = colours[(0xD6, 0x27, 0x28)], colours[(0x9D, 0xBF, 0xD9)]
    # 3.5 s of waits and 4 s of steps are drawn; the legend adds a little of both.
    assert red / blue == pytest.approx(3.5 / 4, rel=0.1)


def test_the_report_is_json_with_each_epochs_timeline(summaries: list[Summary]) -> None:
    written = json.loads(json.dumps(report(summaries, setting={"seed": 1})))
    assert written["setting"] == {"seed": 1}
    assert written["machine"]["num_cpus"] >= 1
    hatchway = written["loaders"][1]
    assert hatchway["name"] == "Hatchway"
    assert hatchway["epochs"][0]["busy"][0] == {"start_s": 0.5, "end_s": 1.5}
