"""``hatchway doctor``: what this machine can do, and what that means for Hatchway."""

from hatchway.cli.doctor.command import add_arguments, run
from hatchway.cli.doctor.finding import Finding, Mark

__all__ = ["Finding", "Mark", "add_arguments", "run"]
