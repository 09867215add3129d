"""``hatchway disk snapshot``, ``commit``, ``rebase``, ``merge`` and ``resize``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hatchway.base.units import format_bytes, parse_bytes
from hatchway.cli.disk.progress import shown
from hatchway.disk import Chain, commit, merge, rebase, resize, snapshot


def run(args: argparse.Namespace) -> int:
    """Do it, and say what was done.

    Returns:
        0.

    Raises:
        ValueError: If an argument makes no sense.
        ImageError: If it cannot be done.
    """
    does = {
        "snapshot": _snapshot,
        "commit": _commit,
        "rebase": _rebase,
        "merge": _merge,
        "resize": _resize,
    }[args.disk_command]
    line, done = does(args)
    if args.json:
        line = json.dumps(done, indent=1, default=_as_json)
    sys.stdout.write(line + "\n")
    return 0


def _snapshot(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    if (args.image is None) == (args.served is None):
        raise ValueError("say which image: IMAGE NEW, or --served PATH NEW for one that is served")
    if args.served is not None:
        return _snapshot_served(args)
    with shown("indexing") as progress:
        done = snapshot(
            args.image,
            args.new,
            index=args.index,
            image_format=args.format,
            cluster_size=None if args.cluster_size is None else parse_bytes(args.cluster_size),
            extended_l2=args.extended_l2,
            allow_backing=_allowed(args),
            progress=progress,
        )
    indexed = "" if done.built is None else f"; {done.built.num_layers} layers indexed"
    line = f"{done.path}: {format_bytes(done.size)} over {done.backing_name}{indexed}"
    built = None if done.built is None else done.built._asdict()
    return line, {**done._asdict(), "built": built}


def _snapshot_served(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    from hatchway.disk.control import ask_for_snapshot

    if args.format is not None or args.allow_backing or args.allow_backing_in:
        raise ValueError("--format and --allow-backing are for `hatchway disk serve`")
    done = ask_for_snapshot(
        args.served,
        args.export,
        args.new,
        index=args.index,
        cluster_size=None if args.cluster_size is None else parse_bytes(args.cluster_size),
        extended_l2=args.extended_l2,
    )
    built, failed = done["built"], done["index_error"]
    indexed = "" if built is None else f"; {built['num_layers']} layers indexed"
    indexed += "" if failed is None else f"; no index: {failed}"
    line = f"{done['path']}: {format_bytes(done['size'])} over {done['backing_name']}{indexed}"
    return f"{line}; all that is written lies there now", done


def _commit(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    with shown("committing") as progress:
        done = commit(
            args.image,
            into=_layer(args.into),
            keep=args.keep,
            allow_backing=_allowed(args),
            progress=progress,
        )
    emptied = f"; {done.path} is empty now" if done.is_emptied else ""
    line = (
        f"{done.into}: {format_bytes(done.written_bytes)} written, "
        f"{format_bytes(done.zeroed_bytes)} made zeros{emptied}"
    )
    return line, done._asdict()


def _rebase(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    with shown("comparing") as progress:
        done = rebase(
            args.image,
            args.backing,
            unsafe=args.unsafe,
            backing_format=args.backing_format,
            allow_backing=_allowed(args),
            progress=progress,
        )
    over = "no backing file" if done.backing_name is None else done.backing_name
    line = f"{done.path}: over {over} now; {format_bytes(done.written_bytes)} copied into it"
    return line, done._asdict()


def _merge(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    with shown("copying") as progress:
        done = merge(
            args.image,
            _layer(args.first),
            _layer(args.last),
            with_active=args.with_active,
            remove=args.remove,
            allow_backing=_allowed(args),
            progress=progress,
        )
    lines = [
        f"{done.path}: {done.num_layers} layers in {format_bytes(done.file_bytes)}, "
        f"{format_bytes(done.written_bytes)} copied"
    ]
    for path in done.unused:
        said = "removed" if path in done.removed else "not needed by this chain any more:"
        lines.append(f"  {said} {path}")
    return "\n".join(lines), done._asdict()


def _resize(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    size = parse_bytes(args.size.removeprefix("+"))
    if args.size.startswith("+"):
        with Chain(args.image, allow_backing=_allowed(args)) as chain:
            size += chain.size
    before = resize(args.image, size, shrink=args.shrink, allow_backing=_allowed(args))
    line = f"{args.image}: {format_bytes(size)} now, {format_bytes(before)} before"
    return line, {"path": args.image, "size": size, "size_before": before}


def _allowed(args: argparse.Namespace) -> bool | list[Path]:
    allowed: bool | list[Path] = args.allow_backing or args.allow_backing_in
    return allowed


def _layer(said: str | None) -> Any:
    """A layer by its number, or its file: ``./7`` where that has a number for a name."""
    return int(said) if said is not None and said.isdecimal() else said


def _as_json(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
