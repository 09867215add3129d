"""What ``hatchway disk`` prints."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.text import Text

from hatchway.base.units import format_bytes
from hatchway.disk import Chain, Image

# Looked at between two steps of the progress bar.
_STEP_BYTES = 1 << 25
_BAR_WIDTH = 24


def info(chain: Chain, *, as_json: bool) -> None:
    """The files, the active one first, and how much of the disk each one holds."""
    held = _held_bytes(chain)
    files = [
        {**_describe(image, number), "held_bytes": held[number]}
        for number, image in reversed(list(enumerate(chain.images)))
    ]
    nowhere = chain.size - sum(held.values())
    if as_json:
        said = {"size_bytes": chain.size, "empty_bytes": nowhere, "files": files}
        sys.stdout.write(json.dumps(said, indent=1) + "\n")
        return
    # Never wrapped, so that a line stays a line in a pipe and for grep.
    console = Console(soft_wrap=True, highlight=False)
    layers = f"{len(files)} file" + ("" if len(files) == 1 else "s")
    console.print(f"{format_bytes(chain.size)} in {layers}, the active one first")
    for file in files:
        console.print(_line(file["held_bytes"], chain.size, f"{file['layer']:>5}", file))
    console.print(_line(nowhere, chain.size, "     ", None))


def extents(chain: Chain, *, as_json: bool) -> None:
    """An extent a line, as they are found."""
    if not as_json:
        sys.stdout.write(f"{'start':>16} {'length':>16} {'kind':<10} layer      host offset file\n")
    for number, extent in enumerate(chain.map()):
        if as_json:
            fields = {**extent._asdict(), "path": extent.path and str(extent.path)}
            sys.stdout.write(("[" if number == 0 else ",\n ") + json.dumps(fields))
            continue
        layer = "-" if extent.layer is None else str(extent.layer)
        where = "-" if extent.host_offset is None else f"{extent.host_offset:#x}"
        sys.stdout.write(
            f"{extent.start:>16} {extent.length:>16} {extent.kind:<10} {layer:>5} {where:>16} "
            f"{extent.path or '-'}\n"
        )
    if as_json:
        sys.stdout.write("]\n" if chain.size else "[]\n")


def _held_bytes(chain: Chain) -> Counter[int]:
    """How much of the disk each file holds: as data, compressed, or said to be zeros."""
    held: Counter[int] = Counter()
    starts = range(0, chain.size, _STEP_BYTES)
    console = Console(stderr=True)
    for start in track(
        starts,
        "looking at the disk",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ):
        for extent in chain.map(start, min(start + _STEP_BYTES, chain.size)):
            if extent.layer is not None:
                held[extent.layer] += extent.length
    return held


def _describe(image: Image, number: int) -> dict[str, Any]:
    header = image.header
    said: dict[str, Any] = {
        "layer": number,
        "path": str(image.path),
        "format": image.format,
        "file_bytes": image.file.file_bytes,
        "size_bytes": image.size,
    }
    if header is not None:
        traits = {
            "subclusters": header.has_subclusters,
            "zstd": header.compression == "zstd",
            "external data file": header.has_data_file,
            "lazy refcounts": bool(header.compatible & 1),
            "not closed by its writer": header.is_dirty,
            "marked as corrupt": header.is_marked_corrupt,
        }
        said["version"] = header.version
        said["cluster_bytes"] = header.cluster_size
        said["traits"] = [name for name, holds in traits.items() if holds]
        said["snapshots"] = [one._asdict() for one in image.snapshots()]
    return said


def _line(nbytes: int, of_all: int, label: str, file: dict[str, Any] | None) -> Text:
    share = nbytes / of_all if of_all else 0.0
    line = Text()
    line.append(f"{label} ", style="bold")
    line.append(("#" * round(share * _BAR_WIDTH)).ljust(_BAR_WIDTH, "."), style="green")
    line.append(f" {share:6.1%} {format_bytes(nbytes):>10}  ")
    if file is None:
        line.append("nowhere: reads as zeros", style="dim")
        return line
    line.append(file["path"])
    parts = [file["format"], f"{format_bytes(file['file_bytes'])} on disk"]
    if "version" in file:
        parts[0] += f" version {file['version']}"
        parts.append(f"clusters of {format_bytes(file['cluster_bytes'])}")
        parts += file["traits"]
        if file["snapshots"]:
            parts.append(f"{len(file['snapshots'])} internal snapshots")
    line.append(f" ({', '.join(parts)})", style="dim")
    return line
