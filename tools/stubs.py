"""Write, or check, the typed stubs of the compiled modules.

``python tools/stubs.py`` writes them beside the sources; with ``--check`` it
only compares and fails, with the difference, if one is out of date.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from importlib import import_module
from pathlib import Path

from nanobind.stubgen import StubGen

SOURCES = Path(__file__).resolve().parents[1] / "src"
NATIVE = SOURCES.parent / "native"


def generate(module_name: str) -> str:
    """Return the stub of one installed compiled module."""
    generator = StubGen(import_module(module_name), quiet=True)
    generator.put(generator.module)
    return generator.get()


def main() -> int:
    """Write or check the stub of each folder under ``native``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    check = parser.parse_args().check
    stale = 0
    for part in sorted(path.parent.name for path in NATIVE.glob("*/binding.cpp")):
        stub = SOURCES / "hatchway" / part / "_native.pyi"
        wanted = generate(f"hatchway.{part}._native")
        if not check:
            stub.write_text(wanted, encoding="utf-8")
            continue
        found = stub.read_text(encoding="utf-8") if stub.exists() else ""
        if found != wanted:
            stale += 1
            name = str(stub.relative_to(SOURCES.parent))
            sys.stdout.writelines(
                difflib.unified_diff(
                    found.splitlines(keepends=True),
                    wanted.splitlines(keepends=True),
                    f"{name} (committed)",
                    f"{name} (generated)",
                )
            )
            print(f"{name} is out of date: run `make setup`, then `python tools/stubs.py`")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
