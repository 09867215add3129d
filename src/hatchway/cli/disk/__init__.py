"""``hatchway disk``: chains of qcow2 images from the command line."""

from hatchway.cli.disk.arguments import add_arguments
from hatchway.cli.disk.command import run

__all__ = ["add_arguments", "run"]
