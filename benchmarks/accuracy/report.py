"""Tables of a report, for the terminal and for the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.accuracy.loaders import REFERENCE, STRICT, TITLES
from benchmarks.accuracy.summary import Mean

_ACCURACY_HEADER = (
    "loader",
    "test accuracy, %",
    "beside torch, points",
    "fast classes, %",
    "slow classes, %",
    "epoch, s",
)
_DELIVERY_HEADER = (
    "loader",
    "late, median",
    "99th percentile",
    "most",
    "slow samples, median",
    "lost an epoch",
    "come again",
    "slow share: first batch; fifths of the epoch; last batch, %",
)


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the tables to a terminal."""
    console.print(_host_line(report), markup=False, highlight=False)
    for header, rows in _tables(report):
        table = Table(box=box.SIMPLE_HEAD)
        for i, column in enumerate(header):
            table.add_column(Text(column), justify="right" if i else "left")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
    console.print(_equality_line(report), markup=False, highlight=False)


def markdown(report: Mapping[str, Any]) -> str:
    """Give the same in Markdown."""
    tables = [_markdown_table(header, rows) for header, rows in _tables(report)]
    return "\n\n".join(filter(None, [_host_line(report), *tables, _equality_line(report)]))


def _tables(report: Mapping[str, Any]) -> list[tuple[Sequence[str], list[list[str]]]]:
    summary = report["summary"]
    return [
        (_ACCURACY_HEADER, [_accuracy_row(*item) for item in summary.items()]),
        (_DELIVERY_HEADER, [_delivery_row(*item) for item in summary.items()]),
    ]


def _equality_line(report: Mapping[str, Any]) -> str:
    """Say what the experiment checked before it wrote a report; nothing if it could not."""
    if not {REFERENCE, STRICT} <= set(report["summary"]):
        return ""
    return (
        "The batches and the final weights of torch and `strict` are the same to the last bit, "
        "for each seed."
    )


def _host_line(report: Mapping[str, Any]) -> str:
    host, setting = report["host"], report["setting"]
    commit = (host["commit"] or "none")[:12]
    changed = " with uncommitted changes" if host["has_uncommitted_changes"] else ""
    slow = " and ".join(map(str, setting["slow_classes"]))
    return (
        f"{host['cpu']}, {host['num_cores']} cores, Linux {host['kernel']}, Python "
        f"{host['python']}, torch {host['torch']}, Hatchway {host['hatchway']}, commit "
        f"{commit}{changed}; classes {slow} take {setting['pace']['slow_s'] * 1e3:g} ms a "
        f"sample, the others {setting['pace']['fast_s'] * 1e3:g} ms; batch "
        f"{setting['batch_size']}, {setting['num_workers']} workers, {setting['num_epochs']} "
        f"epochs, learning rate {setting['learning_rate']:g}, {setting['num_seeds']} seeds, "
        "mean [min-max]"
    )


def _accuracy_row(loader: str, figures: Mapping[str, Any]) -> list[str]:
    beside = figures.get("accuracy_over_torch")
    return [
        TITLES[loader],
        Mean(**figures["accuracy"]).text(1, 100),
        "-" if beside is None else Mean(**beside).text(1, 100),
        Mean(**figures["fast_accuracy"]).text(1, 100),
        Mean(**figures["slow_accuracy"]).text(1, 100),
        Mean(**figures["epoch_s"]).text(2),
    ]


def _delivery_row(loader: str, figures: Mapping[str, Any]) -> list[str]:
    by_batch = figures["slow_share_by_batch"]
    return [
        TITLES[loader],
        *(_or_none(figures[name]) for name in ("late_p50", "late_p99", "late_max")),
        _or_none(figures["slow_late_p50"]),
        f"{figures['num_lost']:.0f}",
        f"{figures['num_doubled']:.0f}",
        "; ".join(
            " ".join(f"{100 * share:.0f}" for share in shares)
            for shares in (by_batch[:1], figures["slow_share_by_part"], by_batch[-1:])
        ),
    ]


def _or_none(figure: int | None) -> str:
    return "-" if figure is None else str(figure)


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
