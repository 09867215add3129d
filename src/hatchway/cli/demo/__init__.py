"""``hatchway demo``: the stock loader and Hatchway train on the same volumes, in turn."""

from hatchway.cli.demo.command import add_arguments, run

__all__ = ["add_arguments", "run"]
