"""The options of ``hatchway disk``, and how it is run."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands of ``hatchway disk`` and their options."""
    parser.description = "Look into chains of qcow2 images. Nothing is written."
    commands = parser.add_subparsers(dest="disk_command", metavar="COMMAND", required=True)
    info = commands.add_parser(
        "info", help="the files of a chain, and what share of the disk each one holds"
    )
    extents = commands.add_parser("map", help="what lies where, an extent a line")
    for command in (info, extents):
        command.add_argument("image", type=Path, help="the active image")
        command.add_argument("--snapshot", help="the id or name of an internal snapshot of it")
        command.add_argument(
            "--format", choices=("qcow2", "raw"), help="of the image (default: as it looks)"
        )
        command.add_argument(
            "--allow-backing",
            action="store_true",
            help="backing and data files may lie anywhere, not in the image's directory only",
        )
        command.add_argument(
            "--allow-backing-in",
            action="append",
            type=Path,
            default=[],
            metavar="DIRECTORY",
            help="or in this one as well; may be given several times",
        )
        command.add_argument(
            "--no-lock",
            action="store_true",
            help="also read what another program writes to meanwhile",
        )
        command.add_argument("--json", action="store_true", help="print JSON instead")


def run(args: argparse.Namespace) -> int:
    """Open the chain and print.

    Returns:
        0; 1 if the chain cannot be read; 130 after Ctrl-C.
    """
    from hatchway.cli.disk import show
    from hatchway.disk import Chain, ImageError

    try:
        with Chain(
            args.image,
            image_format=args.format,
            snapshot=args.snapshot,
            allow_backing=args.allow_backing or args.allow_backing_in,
            lock=not args.no_lock,
        ) as chain:
            (show.info if args.disk_command == "info" else show.extents)(chain, as_json=args.json)
            sys.stdout.flush()
    except ImageError as error:
        sys.stderr.write(f"hatchway disk: {error}\n")
        return 1
    except BrokenPipeError:
        # Whoever read has enough; nothing more is written when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.stderr.write("hatchway disk: interrupted\n")
        return 130
    return 0
