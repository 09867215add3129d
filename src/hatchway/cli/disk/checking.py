"""``hatchway disk check``: what it prints, and how it exits."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from hatchway.base.units import format_bytes
from hatchway.cli.disk.progress import bar_of
from hatchway.disk import Finding, Report, check_chain
from hatchway.disk import check as check_file

_CLEAN, _CORRUPTIONS, _LEAKS = 0, 2, 3


def check(args: argparse.Namespace) -> int:
    """Check a file, or all of its chain, and print what was found.

    Returns:
        0, 2 or 3: the worst that a file has.
    """
    reports: list[Report] = []
    bar = bar_of("following tables")
    task = bar.add_task("", total=None)
    found = _reports(args, lambda done, total: bar.update(task, completed=done, total=total))
    while True:
        # Not while something is printed, which rich would send to where the bar is.
        with bar:
            report = next(found, None)
        if report is None:
            break
        bar.reset(task)
        reports.append(report)
        if not args.json:
            _print(report)
    if args.json:
        said = [_described(report) for report in reports]
        sys.stdout.write(json.dumps(said if args.chain else said[0], indent=1) + "\n")
    if any(report.corruptions for report in reports):
        return _CORRUPTIONS
    return _LEAKS if any(report.leaks for report in reports) else _CLEAN


def _reports(args: argparse.Namespace, progress: Any) -> Iterator[Report]:
    options: dict[str, Any] = {
        "repair": args.repair,
        "lock": not args.no_lock,
        "most_findings": args.most,
        "progress": progress,
    }
    if args.chain:
        allowed = args.allow_backing or args.allow_backing_in
        yield from check_chain(args.image, allow_backing=allowed, **options)
    else:
        yield check_file(args.image, **options)


def _described(report: Report) -> dict[str, Any]:
    findings = [finding._asdict() for finding in report.findings]
    return {**asdict(report), "path": str(report.path), "findings": findings}


def _print(report: Report) -> None:
    lines = [f"{report.path}:"]
    lines += [f"  {_line(finding)}" for finding in report.findings]
    num_more = report.leaks + report.corruptions - len(report.findings)
    if num_more:
        lines.append(f"  and {num_more} more")
    if report.leaks_fixed or report.corruptions_fixed:
        fixed = f"{report.leaks_fixed} leaks, {report.corruptions_fixed} corruptions"
        lines.append(f"  repaired: {fixed}")
    found = f"{report.leaks} leaks, {report.corruptions} corruptions"
    lines.append("  clean" if report.is_clean else f"  {found}")
    if report.is_marked_corrupt:
        lines.append("  marked as corrupt")
    if report.is_dirty:
        lines.append("  not closed by its writer")
    lines.append(
        f"  {report.allocated_clusters} of {report.total_clusters} clusters allocated, "
        f"{report.fragmented_clusters} fragmented, {report.compressed_clusters} compressed; "
        f"used up to {format_bytes(report.image_end_offset)}"
    )
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _line(finding: Finding) -> str:
    places = [
        f"{name} {value:#x}"
        for name, value in (
            ("entry at", finding.offset),
            ("host offset", finding.host_offset),
            ("guest offset", finding.guest_offset),
        )
        if value is not None
    ]
    severity = "leak" if finding.kind == "leak" else "corruption"
    return f"{severity}: {finding.what}" + (f" ({', '.join(places)})" if places else "")
