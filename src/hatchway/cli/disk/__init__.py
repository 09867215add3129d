"""``hatchway disk``: what a chain of images is made of, and what lies where in it."""

from hatchway.cli.disk.command import add_arguments, run

__all__ = ["add_arguments", "run"]
