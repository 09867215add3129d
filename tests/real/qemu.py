"""QEMU's own tools, which make images and say what is in them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

MISSING = [tool for tool in ("qemu-img", "qemu-io") if shutil.which(tool) is None]
needs_qemu = pytest.mark.skipif(
    bool(MISSING), reason=f"no {' or '.join(MISSING)} here (`make setup-system` installs them)"
)


def img(*arguments: object) -> str:
    """What a command of ``qemu-img`` prints."""
    return _run("qemu-img", *arguments)


def create(
    path: Path, size: int | None = None, backing: Path | None = None, **options: object
) -> Path:
    """Make a qcow2 file; a backing file is named relative to it."""
    arguments: list[object] = ["create", "-q", "-f", "qcow2"]
    if backing is not None:
        arguments += ["-b", backing.name, "-F", format_of(backing)]
    for name, value in options.items():
        arguments += ["-o", f"{name}={value}"]
    img(*arguments, path, *([] if size is None else [size]))
    return path


def raw(path: Path, content: bytes) -> Path:
    """Make a raw file."""
    path.write_bytes(content)
    return path


def io(path: Path, commands: Iterable[str], *flags: str) -> None:
    """Have ``qemu-io`` do things to an image."""
    listed = [part for command in commands for part in ("-c", command)]
    said = _run("qemu-io", "-f", format_of(path), *flags, *listed, path)
    assert "failed" not in said, said


def contents(path: Path, *options: str) -> bytes:
    """All bytes of the disk, as QEMU reads them."""
    target = path.with_name(path.name + ".read")
    img("convert", "-f", format_of(path), "-O", "raw", *options, path, target)
    try:
        return target.read_bytes()
    finally:
        target.unlink()


def extents(path: Path) -> list[dict[str, Any]]:
    """What ``qemu-img map`` says."""
    found: list[dict[str, Any]] = json.loads(img("map", "--output=json", path))
    return found


def check(path: Path) -> None:
    """Have ``qemu-img check`` find nothing."""
    img("check", "-q", "-f", "qcow2", path)


def format_of(path: Path) -> str:
    return "raw" if path.suffix == ".raw" else "qcow2"


def _run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], check=False, capture_output=True, timeout=50
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, f"{command} exited with {done.returncode}: {said}"
    return done.stdout.decode()
