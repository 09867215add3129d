"""Run ``hatchway doctor`` and print its findings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hatchway import __version__
from hatchway.cli.doctor.finding import Finding, Mark, to_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["add_arguments", "run", "show"]

_STYLE = {Mark.OK: "green", Mark.LIMITED: "yellow", Mark.MISSING: "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``hatchway doctor``."""
    parser.add_argument("--json", action="store_true", help="print a JSON object instead")


def run(args: argparse.Namespace) -> int:
    """Probe this machine and print what was found.

    Returns:
        Always 0: a machine that lacks something is no failure of the command.
    """
    from hatchway.cli.doctor.host import host_findings
    from hatchway.cli.doctor.kernel import kernel_findings
    from hatchway.cli.doctor.software import software_findings

    findings = [*host_findings(), *kernel_findings(), *software_findings()]
    if args.json:
        sys.stdout.write(to_json(findings, version=__version__) + "\n")
    else:
        show(findings)
    return 0


def show(findings: Sequence[Finding]) -> None:
    """Print a line for each finding: mark, name, value, consequence."""
    from rich.console import Console
    from rich.text import Text

    # Never wrapped, so that a line stays a line in a pipe and for grep.
    console = Console(soft_wrap=True, highlight=False)
    for finding in findings:
        line = Text()
        line.append(f"{finding.mark.value:<8}", style=_STYLE[finding.mark])
        line.append(f"{finding.title:<15}", style="bold")
        line.append(f" {finding.value}: ")
        line.append(finding.consequence, style="dim")
        console.print(line)
