"""Tables of a report, for the terminal and for the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.figures import Spread
from benchmarks.loaders import TITLES
from benchmarks.targets import outcomes

_COLUMNS = (
    ("loader", None, 0, 1.0),
    ("epoch over torch", "epoch_over_torch", 2, 1.0),
    ("epoch over limit", "epoch_over_limit", 2, 1.0),
    ("steady over limit", "steady_over_limit", 2, 1.0),
    ("first batch, ms", "first_batch_s", 0, 1e3),
    ("device busy, %", "busy_share", 0, 100.0),
    ("waits, ms", "wait_s", 0, 1e3),
    ("longest, ms", "longest_wait_s", 0, 1e3),
    ("CPU, s", "cpu_s", 1, 1.0),
    ("processes", "num_processes", 0, 1.0),
    ("others' CPU, %", "foreign_share", 0, 100.0),
)
_HEADER = [title for title, *_ in _COLUMNS]
_TARGET_HEADER = ["workload", "figure of Hatchway's default", "target", "measured", "met"]


def errors(report: Mapping[str, Any]) -> list[str]:
    """Name the runs that failed."""
    return [
        f"{workload['name']}, {run['loader']}, repeat {run['repeat'] + 1}: {run['error']}"
        for workload in report["workloads"]
        for run in workload["runs"]
        if run["error"] is not None
    ]


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the tables to a terminal."""
    console.print(_host_line(report), markup=False, highlight=False)
    for workload in report["workloads"]:
        _print_table(console, _title(workload), _HEADER, _rows(workload))
    rows = list(_target_rows(report))
    if rows:
        _print_table(console, "Targets", _TARGET_HEADER, rows)
    for line in errors(report):
        console.print(f"error: {line}", style="red", markup=False, highlight=False)


def markdown(report: Mapping[str, Any]) -> str:
    """Give the same tables in Markdown."""
    parts = [_host_line(report)]
    for workload in report["workloads"]:
        parts += [f"### {_title(workload)}", _markdown_table(_HEADER, _rows(workload))]
    rows = list(_target_rows(report))
    if rows:
        parts += ["### Targets", _markdown_table(_TARGET_HEADER, rows)]
    parts += [f"Error: {line}" for line in errors(report)]
    return "\n\n".join(parts)


def _host_line(report: Mapping[str, Any]) -> str:
    host, options = report["host"], report["options"]
    commit = (host["commit"] or "none")[:12]
    changed = " with uncommitted changes" if host["has_uncommitted_changes"] else ""
    return (
        f"{host['cpu']}, {host['num_cores']} cores, Linux {host['kernel']}, Python "
        f"{host['python']}, torch {host['torch']}, Hatchway {host['hatchway']}, commit "
        f"{commit}{changed}; seed {options['seed']}, {options['repeats']} interleaved runs, "
        f"{options['length']} epochs, "
        "median [min-max]"
    )


def _title(workload: Mapping[str, Any]) -> str:
    limits = sorted(limit["limit_s"] for limit in workload["limits"])
    return (
        f"{workload['title']} ({workload['num_batches']} batches, "
        f"limit {limits[0]:.2f}-{limits[-1]:.2f} s)"
    )


def _rows(workload: Mapping[str, Any]) -> Iterator[list[str]]:
    for loader, summary in workload["summary"].items():
        yield [TITLES[loader]] + [
            _cell(summary.get(figure), digits, scale) for _, figure, digits, scale in _COLUMNS[1:]
        ]


def _cell(figure: Mapping[str, Any] | None, digits: int, scale: float) -> str:
    return "-" if figure is None else Spread(**figure).text(digits, scale)


def _target_rows(report: Mapping[str, Any]) -> Iterator[list[str]]:
    for workload in report["workloads"]:
        for outcome in outcomes(workload["name"], workload["summary"]):
            if outcome.measured is None:
                continue
            yield [
                workload["name"],
                outcome.target.figure.replace("_", " "),
                f"{outcome.target.at_most:.2f}",
                _cell(outcome.measured, 3, 1.0),
                "yes" if outcome.is_met else "no",
            ]


def _print_table(
    console: Console, title: str, header: Sequence[str], rows: Iterator[list[str]] | list[list[str]]
) -> None:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for i, column in enumerate(header):
        table.add_column(
            Text(column), justify="left" if i == 0 else "right", no_wrap=i == 0, min_width=9
        )
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _markdown_table(header: Sequence[str], rows: Iterator[list[str]] | list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
