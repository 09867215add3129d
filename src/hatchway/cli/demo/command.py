"""The options of ``hatchway demo``, and the check that its extra packages are there.

torch, matplotlib and the rest are imported by ``run`` only: naming the options costs nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

_NEEDED = ("torch", "nibabel", "skimage", "scipy", "matplotlib")
_QUICK = "HATCHWAY_DEMO_QUICK"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``hatchway demo``."""
    parser.add_argument(
        "--workers",
        type=_positive,
        help="worker processes of each loader (2; with a GPU as many as keep up with it)",
    )
    parser.add_argument("--batch-size", type=_positive, default=2, help="samples a batch (2)")
    parser.add_argument(
        "--epochs", type=_positive, help="epochs of each loader, in turn (as fit into the time)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of order and preprocessing (0)")
    parser.add_argument(
        "--order",
        choices=("auto", "strict", "ready"),
        default="auto",
        help="Hatchway's order of delivery (auto)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("hatchway-demo.png"), help="where the picture goes"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument(
        "--quick",
        action="store_true",
        default=os.environ.get(_QUICK, "") not in ("", "0"),
        help=f"fewer, smaller volumes: does it run at all? (or {_QUICK}=1)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo.

    Returns:
        0 if every loader delivered every case once, 1 if not, 2 if the demo cannot start.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        return _refuse(f"needs {', '.join(missing)}: pip install '.[demo]' in the clone")
    for path in (args.output, args.json):
        if path is not None and not path.resolve().parent.is_dir():
            return _refuse(f"cannot write {path}: there is no folder {path.resolve().parent}")

    from hatchway.cli.demo.workspace import Workspace

    # Entered before the slow imports, so that Ctrl-C is clean from here on.
    with Workspace() as workspace:
        from hatchway.cli.demo.show import Show

        return Show(args, workspace.folder).run()


def _refuse(reason: str) -> int:
    sys.stderr.write(f"hatchway demo: {reason}\n")
    return 2


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return int(text)
