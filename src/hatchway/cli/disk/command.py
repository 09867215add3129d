"""How a command of ``hatchway disk`` is run, and how it ends."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hatchway.disk import Chain


def run(args: argparse.Namespace) -> int:
    """Do what was asked for.

    Returns:
        0; 1 if it cannot be done; 130 after Ctrl-C; of ``serve --run`` the command's; of
        ``check`` 2 if a file has corruptions, 3 if one has leaks only.
    """
    from hatchway.disk import ImageError

    try:
        status = _run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever read has enough; nothing more is written when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ImageError, OSError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"hatchway disk: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("hatchway disk: interrupted\n")
        return 130


def _run(args: argparse.Namespace) -> int:
    # Only what the command needs is imported.
    if args.disk_command == "serve":
        from hatchway.cli.disk.serve import serve

        return serve(args)
    if args.disk_command == "check":
        from hatchway.cli.disk.checking import check

        return check(args)
    if args.disk_command in ("snapshot", "commit", "rebase", "merge", "resize"):
        from hatchway.cli.disk import upkeep

        return upkeep.run(args)
    if args.disk_command == "bench":
        from hatchway.cli.disk.bench import bench

        bench(args, lambda: _opened(args))
        return 0
    with _opened(args) as chain:
        if args.disk_command == "index":
            from hatchway.cli.disk import index

            index.run(chain, prove=args.prove, drop=args.drop, as_json=args.json)
        else:
            from hatchway.cli.disk import show

            (show.info if args.disk_command == "info" else show.extents)(chain, as_json=args.json)
    return 0


def _opened(args: argparse.Namespace) -> Chain:
    from hatchway.disk import Chain

    return Chain(
        args.image,
        image_format=getattr(args, "format", None),
        snapshot=getattr(args, "snapshot", None),
        allow_backing=args.allow_backing or args.allow_backing_in,
        lock=not args.no_lock,
    )
