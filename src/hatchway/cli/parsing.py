"""A parser of command lines that imports little."""

from __future__ import annotations

import argparse
from typing import Any


class Parser(argparse.ArgumentParser):
    """As argparse's; how wide the terminal is it asks when it prints, and not before.

    Argparse asks for each argument that is declared, by modules that take half a MiB.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_declaring, **options)

    def format_usage(self) -> str:
        """As argparse's."""
        self.formatter_class = argparse.HelpFormatter
        return super().format_usage()

    def format_help(self) -> str:
        """As argparse's."""
        self.formatter_class = argparse.HelpFormatter
        return super().format_help()


def _declaring(*, prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, width=80)
