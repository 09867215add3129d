"""Parse the command line and hand over to a subcommand."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hatchway import __version__
from hatchway.cli.parsing import Parser

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``hatchway`` command.

    Args:
        argv: Arguments after the program's name; ``sys.argv[1:]`` by default.

    Returns:
        The exit status: 0 on success, 2 if no subcommand was named.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = Parser(
        prog="hatchway",
        description="Keep the accelerator of an ML training host loaded.",
    )
    parser.add_argument("--version", action="version", version=f"hatchway {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    doctor = commands.add_parser("doctor", help="what this machine can do, a line each")
    demo = commands.add_parser("demo", help="Hatchway beside stock torch, on this machine")
    simulate = commands.add_parser("simulate", help="what loaders would do with recorded times")
    disk = commands.add_parser(
        "disk", help="chains of qcow2 images: look, check, index, serve, keep up"
    )

    # Only the named subcommand is imported: the demo pulls in torch and plots.
    named = next((a for a in arguments if not a.startswith("-")), None)
    if named == "doctor":
        from hatchway.cli.doctor import add_arguments, run

        add_arguments(doctor)
        return run(parser.parse_args(arguments))
    if named == "demo":
        from hatchway.cli import demo as demo_command

        demo_command.add_arguments(demo)
        return demo_command.run(parser.parse_args(arguments))
    if named == "simulate":
        from hatchway.cli import simulate as simulate_command

        simulate_command.add_arguments(simulate)
        return simulate_command.run(parser.parse_args(arguments))
    if named == "disk":
        from hatchway.cli import disk as disk_command

        following = arguments[arguments.index(named) + 1 :]
        disk_command.add_arguments(disk, following[0] if following else None)
        return disk_command.run(parser.parse_args(arguments))
    parser.parse_args(arguments)
    parser.print_help(sys.stderr)
    return 2
