"""The commands of ``hatchway disk`` and their options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser, named: str | None = None) -> None:
    """Declare them: of the command that is named, or of all of them if there is none such."""
    parser.description = (
        "Chains of qcow2 images: look into them, check, index and serve them, keep them in order."
    )
    commands = parser.add_subparsers(dest="disk_command", metavar="COMMAND", required=True)
    for declare in [_COMMANDS[named]] if named in _COMMANDS else _COMMANDS.values():
        declare(commands)


def _info(commands: Any) -> None:
    info = commands.add_parser(
        "info", help="the files of a chain, and what share of the disk each one holds"
    )
    _of_an_image(info)
    _of_what_is_read(info)


def _map(commands: Any) -> None:
    extents = commands.add_parser("map", help="what lies where, an extent a line")
    _of_an_image(extents)
    _of_what_is_read(extents)


def _check(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        help="whether refcounts and tables agree, as qemu-img check",
        description="Exits with 0: clean, 1: it cannot be checked, 2: corruptions, 3: leaks only.",
    )
    _of_an_image(check)
    check.add_argument("--repair", choices=("leaks", "all"), help="and set right what is wrong")
    check.add_argument("--chain", action="store_true", help="also every file that lies below it")
    check.add_argument(
        "--most",
        type=_count,
        default=100,
        metavar="N",
        help="findings that are printed for each file; all are counted (default: %(default)s)",
    )


def _index(commands: Any) -> None:
    index = commands.add_parser(
        "index", help="have what lies where of all files but the active one in a file beside them"
    )
    _of_an_image(index)
    index.add_argument(
        "--prove",
        choices=("stamps", "digest"),
        default="stamps",
        help="by what a file is held to be what was indexed: its time stamps, and a digest of its "
        "tables where they do not say; or the digest of each (default: %(default)s)",
    )
    index.add_argument(
        "--drop", action="store_true", help="remove the indexes of the chain's files instead"
    )


def _bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench", help="how fast the chain is read in this process, at random and in order"
    )
    _of_an_image(bench)
    _of_what_is_read(bench)
    bench.add_argument(
        "--seconds", type=float, default=2.0, help="of each measurement (default: %(default)s)"
    )


def _serve(commands: Any) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve chains to virtual machines and others, over NBD",
        description="Serve chains over NBD until a signal comes. Nothing is encrypted: a TCP port "
        "is for hosts that are trusted, a socket in the file system for this user.",
    )
    serve.add_argument(
        "images",
        nargs="+",
        metavar="[NAME=]IMAGE",
        help="the active image of a chain; with several of them each needs a name",
    )
    serve.add_argument(
        "--writable",
        action="store_true",
        help="clients may write; all that they wrote is in the images when this command ends",
    )
    serve.add_argument("--socket", type=Path, metavar="PATH", help="listen at this name")
    serve.add_argument("--tcp", metavar="HOST:PORT", help="listen at this port; 0 for a free one")
    serve.add_argument(
        "--control",
        type=Path,
        metavar="PATH",
        help="take `hatchway disk snapshot --served PATH` at this socket, from this user",
    )
    serve.add_argument(
        "--run",
        metavar="COMMAND",
        help="serve while this command of the shell runs, which finds $uri (of several exports: "
        "$uris); without --socket and --tcp at a name of its own",
    )
    serve.add_argument(
        "--threads",
        type=int,
        default=16,
        help="for what has to wait for a disk (default: %(default)s)",
    )
    serve.add_argument(
        "--max-connections",
        type=int,
        default=256,
        metavar="N",
        help="clients at a time; further ones are told so (default: %(default)s)",
    )
    _of_files(serve)
    _of_what_is_read(serve)


def _snapshot(commands: Any) -> None:
    snapshot = commands.add_parser("snapshot", help="freeze an image under a new, empty one")
    _of_what_is_kept_up(snapshot, nargs="?")
    snapshot.add_argument(
        "--served",
        type=Path,
        metavar="PATH",
        help="instead of an image: what is served, by the command that has this --control",
    )
    snapshot.add_argument(
        "--export", default="", metavar="NAME", help="of what is served, where it has a name"
    )
    snapshot.add_argument("new", type=Path, help="the new active image")
    snapshot.add_argument(
        "--index",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="have a stored index of all below the new image (default: if there is one already)",
    )
    snapshot.add_argument(
        "--format", choices=("qcow2", "raw"), help="of the image (default: as it looks)"
    )
    snapshot.add_argument(
        "--cluster-size", metavar="SIZE", help="of the new image (default: as the old one)"
    )
    snapshot.add_argument(
        "--extended-l2",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="have subclusters in the new image (default: if the old one has)",
    )


def _commit(commands: Any) -> None:
    commit = commands.add_parser(
        "commit", help="write what an image holds into its backing file, as qemu-img commit"
    )
    _of_what_is_kept_up(commit)
    commit.add_argument(
        "--into",
        metavar="LAYER",
        help="or what all layers above this one hold, into it: a file, or its number from the "
        "base on, which is 0; nobody may use the layers between after that",
    )
    commit.add_argument("--keep", action="store_true", help="do not empty the image then")


def _rebase(commands: Any) -> None:
    rebase = commands.add_parser(
        "rebase", help="give an image another backing file; its disk stays what it is"
    )
    _of_what_is_kept_up(rebase)
    which = rebase.add_mutually_exclusive_group(required=True)
    which.add_argument("--backing", type=Path, metavar="FILE", help="the new backing file")
    which.add_argument(
        "--flatten", action="store_true", help="have none: the image holds all of its disk then"
    )
    rebase.add_argument(
        "--backing-format", choices=("qcow2", "raw"), help="of that (default: as it looks)"
    )
    rebase.add_argument(
        "--unsafe",
        action="store_true",
        help="change the name only, of a backing file that was moved; needs --backing-format",
    )


def _merge(commands: Any) -> None:
    merge = commands.add_parser(
        "merge",
        help="have one file hold what several layers hold",
        description="Layers are named by their files, or by their numbers from the base on, "
        "which is 0. The chain may be read meanwhile, and its active image written to.",
    )
    _of_what_is_kept_up(merge)
    merge.add_argument("first", help="the lowest layer")
    merge.add_argument("last", help="the highest one, whose file is replaced")
    merge.add_argument(
        "--with-active", action="store_true", help="the last one may be the active image"
    )
    merge.add_argument(
        "--remove",
        action="store_true",
        help="remove the files that this chain needs no more; that no other overlay needs them is "
        "for you to know",
    )


def _resize(commands: Any) -> None:
    resize = commands.add_parser("resize", help="make a disk longer or shorter")
    _of_what_is_kept_up(resize)
    resize.add_argument("size", metavar="[+]SIZE", help="such as 10G, or +512M for so much more")
    resize.add_argument(
        "--shrink", action="store_true", help="it may become shorter, and lose what lies there"
    )


def _of_an_image(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", type=Path, help="the active image")
    command.add_argument("--json", action="store_true", help="print JSON instead")
    _of_files(command)


def _of_what_is_kept_up(command: argparse.ArgumentParser, nargs: str | None = None) -> None:
    command.add_argument("image", nargs=nargs, type=Path, help="the active image")
    command.add_argument("--json", action="store_true", help="print JSON instead")
    _of_backing(command)


def _of_what_is_read(command: argparse.ArgumentParser) -> None:
    command.add_argument("--snapshot", help="the id or name of an internal snapshot of it")
    command.add_argument(
        "--format", choices=("qcow2", "raw"), help="of the image (default: as it looks)"
    )


def _of_files(command: argparse.ArgumentParser) -> None:
    _of_backing(command)
    command.add_argument(
        "--no-lock",
        action="store_true",
        help="also read what another program writes to meanwhile",
    )


def _of_backing(command: argparse.ArgumentParser) -> None:
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


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return int(text)


_COMMANDS = {
    "info": _info,
    "map": _map,
    "check": _check,
    "index": _index,
    "bench": _bench,
    "serve": _serve,
    "snapshot": _snapshot,
    "commit": _commit,
    "rebase": _rebase,
    "merge": _merge,
    "resize": _resize,
}
