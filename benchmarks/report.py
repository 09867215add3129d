"""Tables of a report, for the terminal and for the documentation."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import host
from benchmarks.figures import Spread
from benchmarks.loaders import TITLES
from benchmarks.targets import outcomes


@dataclass(frozen=True)
class _Column:
    title: str
    figure: str
    digits: int
    scale: float = 1.0
    has_spread: bool = False

    def cell(self, summary: Mapping[str, Any]) -> str:
        if self.figure not in summary:
            return "-"
        figure = Spread(**summary[self.figure])
        if self.has_spread:
            return figure.text(self.digits, self.scale)
        return f"{figure.median * self.scale:.{self.digits}f}"


_COLUMNS = (
    _Column("epoch\nover torch", "epoch_over_torch", 2, has_spread=True),
    _Column("epoch\nover limit", "epoch_over_limit", 2, has_spread=True),
    _Column("steady\nover limit", "steady_over_limit", 2, has_spread=True),
    _Column("first batch,\nms", "first_batch_s", 0, 1e3, has_spread=True),
    _Column("device\nbusy, %", "busy_share", 0, 100.0),
    _Column("waits,\nms", "wait_s", 0, 1e3),
    _Column("longest,\nms", "longest_wait_s", 0, 1e3),
    _Column("late, batches,\n99th", "late_batches_p99", 0),
    _Column("CPU,\ns", "cpu_s", 1),
    _Column("processes", "num_processes", 0),
    _Column("others'\nCPU, %", "foreign_share", 0, 100.0),
)
_HEADER = ["loader", *(column.title for column in _COLUMNS)]
_TARGET_HEADER = [
    "workload",
    "figure of Hatchway's default",
    "target",
    "measured",
    "met",
    "a loader without cost",
]
# Those whose order is compared: the loaders that a user of torch would choose from.
_ORDERS = ("torch", "torch-unordered", "hatchway", "hatchway-strict")
_ORDER_COLUMNS = (
    _Column("waited after the\nfirst batch, %", "wait_share", 1, 100.0, has_spread=True),
    _Column("samples late,\nmedian", "late_samples_median", 0),
    _Column("99th\npercentile", "late_samples_p99", 0, has_spread=True),
    _Column("batches late,\nmedian", "late_batches_median", 0),
    _Column("99th\npercentile", "late_batches_p99", 0, has_spread=True),
)
_ORDER_HEADER = ["workload", "demand", "loader", *(column.title for column in _ORDER_COLUMNS)]
_IDEAL_TITLES = {
    "ready": "without any cost, simulated",
    "strict": "the same in order",
}


def errors(report: Mapping[str, Any]) -> list[str]:
    """Name the runs that failed."""
    return [
        f"{workload['name']}, demand {workload['demand']:g}, {run['loader']}, "
        f"repeat {run['repeat'] + 1}: {run['error']}"
        for workload in report["workloads"]
        for run in workload["runs"]
        if run["error"] is not None
    ]


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the tables to a terminal."""
    console.print(_host_line(report), markup=False, highlight=False)
    for workload in report["workloads"]:
        print_table(console, _title(workload), _HEADER, _rows(workload))
    for title, header, rows in _summaries(report):
        print_table(console, title, header, rows)
    for line in errors(report):
        console.print(f"error: {line}", style="red", markup=False, highlight=False)


def markdown(report: Mapping[str, Any]) -> str:
    """Give the same tables in Markdown."""
    parts = [_host_line(report)]
    for workload in report["workloads"]:
        parts += [f"### {_title(workload)}", markdown_table(_HEADER, _rows(workload))]
    for title, header, rows in _summaries(report):
        parts += [f"### {title}", markdown_table(header, rows)]
    parts += [f"Error: {line}" for line in errors(report)]
    return "\n\n".join(parts)


def _summaries(
    report: Mapping[str, Any],
) -> Iterator[tuple[str, Sequence[str], list[list[str]]]]:
    """Give title, header and rows of the tables over all workloads that have rows."""
    for title, header, rows in (
        ("Waiting and order", _ORDER_HEADER, list(_order_rows(report))),
        ("Targets", _TARGET_HEADER, list(_target_rows(report))),
    ):
        if rows:
            yield title, header, rows


def _host_line(report: Mapping[str, Any]) -> str:
    host, options = report["host"], report["options"]
    commit = (host["commit"] or "none")[:12]
    peers = (("torchdata", "torchdata"), ("SPDL", "spdl-core"), ("Grain", "grain"))
    versions = "".join(f", {name} {host[key]}" for name, key in peers if host.get(key))
    changed = " with uncommitted changes" if host["has_uncommitted_changes"] else ""
    return (
        f"{host['cpu']}, {host['num_cores']} cores, Linux {host['kernel']}, Python "
        f"{host['python']}, torch {host['torch']}, Hatchway {host['hatchway']}{versions}, commit "
        f"{commit}{changed}; seed {options['seed']}, {options['repeats']} interleaved runs, "
        f"{options['length']} epochs, "
        "median [min-max]"
    )


def _title(workload: Mapping[str, Any]) -> str:
    limits = sorted(limit["limit_s"] for limit in workload["limits"])
    return (
        f"{workload['title']} ({workload['num_batches']} batches, "
        f"demand {workload['demand']:g}, limit {limits[0]:.2f}-{limits[-1]:.2f} s)"
    )


def _rows(workload: Mapping[str, Any]) -> Iterator[list[str]]:
    for loader, summary in workload["summary"].items():
        yield [TITLES[loader], *(column.cell(summary) for column in _COLUMNS)]
    for name, summary in workload["summary_of_ideals"].items():
        yield [_IDEAL_TITLES[name], *(column.cell(summary) for column in _COLUMNS)]


def _order_rows(report: Mapping[str, Any]) -> Iterator[list[str]]:
    for workload in report["workloads"]:
        for loader in _ORDERS:
            summary = workload["summary"].get(loader)
            if summary:
                cells = (column.cell(summary) for column in _ORDER_COLUMNS)
                yield [workload["name"], f"{workload['demand']:g}", TITLES[loader], *cells]


def _target_rows(report: Mapping[str, Any]) -> Iterator[list[str]]:
    for workload in report["workloads"]:
        if workload["demand"] != 1:
            continue
        for outcome in outcomes(workload["name"], workload["summary"]):
            if outcome.measured is None:
                continue
            yield [
                workload["name"],
                outcome.target.figure.replace("_", " "),
                f"{outcome.target.at_most:.2f}",
                Spread(**outcome.measured).text(3),
                "yes" if outcome.is_met else "no",
                _ideal_cell(workload, outcome.target.figure),
            ]


def _ideal_cell(workload: Mapping[str, Any], figure: str) -> str:
    ideal = workload["summary_of_ideals"]["ready"].get(figure)
    return "" if ideal is None else Spread(**ideal).text(3)


def write_report(
    options: argparse.Namespace, schema: str, definition: str | None, **figures: Any
) -> None:
    """Write what was measured, and where, to the file that ``--json`` names, if it does."""
    if options.json is None:
        return
    result = {
        "schema": schema,
        "definition": definition,
        "host": host.describe(),
        "options": {key: str(value) for key, value in vars(options).items()},
        **figures,
    }
    options.json.write_text(json.dumps(result, indent=1) + "\n")


def print_table(
    console: Console, title: str, header: Sequence[str], rows: Iterator[list[str]] | list[list[str]]
) -> None:
    """Print the columns from the left that fit."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    rows = list(rows)
    num_columns = _num_fitting(header, rows, console.width)
    for i, column in enumerate(header[:num_columns]):
        table.add_column(Text(column), justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row[:num_columns]))
    console.print(table)


def _num_fitting(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> int:
    """Count the columns from the left that fit: the important ones stand there."""
    padding = 3
    used = 1
    for i, title in enumerate(header):
        cells = [*title.split("\n"), *(row[i] for row in rows)]
        used += max(map(len, cells)) + padding
        if used > width:
            return max(2, i)
    return len(header)


def markdown_table(header: Sequence[str], rows: Iterator[list[str]] | list[list[str]]) -> str:
    """Give a table in Markdown."""
    titles = [title.replace("\n", " ") for title in header]
    lines = [titles, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
