"""The ``hatchway`` command."""

from hatchway.cli.command import main

__all__ = ["main"]
