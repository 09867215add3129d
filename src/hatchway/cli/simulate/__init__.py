"""``hatchway simulate``: what loaders would do with samples of recorded times."""

from hatchway.cli.simulate.command import add_arguments, run

__all__ = ["add_arguments", "run"]
