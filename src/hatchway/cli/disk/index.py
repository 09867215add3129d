"""``hatchway disk index``: the stored index of a chain, made, kept up or dropped."""

from __future__ import annotations

import json
import sys
import time
from typing import Literal

from hatchway.base.units import format_bytes
from hatchway.cli.disk.progress import shown
from hatchway.disk import Chain, ImageError
from hatchway.disk.index import build, sidecar_of


def run(chain: Chain, *, prove: Literal["stamps", "digest"], drop: bool, as_json: bool) -> None:
    """Index all files of a chain but the active one, and say what was done.

    Raises:
        ImageError: If there is no such file, one is damaged, or the index cannot be written.
    """
    if drop:
        _drop(chain, as_json=as_json)
        return
    layers = chain.images[:-1]
    if not layers:
        path = chain.images[-1].path
        raise ImageError(
            f"{path} has no backing file; the active image is never indexed, since it changes",
            path=path,
        )
    begun = time.perf_counter()
    with shown("indexing") as progress:
        built = build(layers, prove=prove, progress=progress)
    seconds = time.perf_counter() - begun
    if as_json:
        said = {**built._asdict(), "path": str(built.path), "seconds": seconds}
        sys.stdout.write(json.dumps(said, indent=1) + "\n")
        return
    sys.stdout.write(
        f"{built.path}: {built.num_layers} layers, {built.num_reused} of them as they were; "
        f"{built.num_leaves} leaves; {format_bytes(built.written_bytes)} written, "
        f"{format_bytes(built.file_bytes)} in all; {seconds:.2f} s\n"
    )


def _drop(chain: Chain, *, as_json: bool) -> None:
    dropped = []
    for image in chain.images:
        path = sidecar_of(image.path)
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ImageError(f"{path} cannot be removed: {error.strerror}", path=path) from error
        dropped.append(str(path))
    if as_json:
        sys.stdout.write(json.dumps({"dropped": dropped}, indent=1) + "\n")
    elif dropped:
        sys.stdout.write("".join(f"removed {path}\n" for path in dropped))
    else:
        sys.stdout.write("there is no index\n")
