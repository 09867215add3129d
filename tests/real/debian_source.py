"""Sources of Debian's archive, from the mirror that apt is set up with."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache"


class NotHere(Exception):  # noqa: N818 - no error: it says why a test is skipped
    """The source is not to be had on this machine."""


def fetched(archive: str, sha256: str) -> bytes:
    """An archive of the mirror.

    Args:
        archive: Its path there.
        sha256: Its digest.

    Raises:
        NotHere: If no mirror of Debian's archive is set up or can be reached.
    """
    try:
        asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
        mirrors = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotHere("needs apt, set up with a mirror of Debian's archive") from error
    for mirror in sorted({line for line in mirrors.split() if line.startswith("http")}):
        try:
            with urllib.request.urlopen(f"{mirror.rstrip('/')}/{archive}", timeout=50) as answer:
                content: bytes = answer.read()
        except (OSError, urllib.error.URLError):
            continue
        if hashlib.sha256(content).hexdigest() == sha256:
            return content
    raise NotHere(f"no mirror that apt is set up with has {archive}")


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """A file or directory in ``.cache``, made where there is none: whole, or not at all."""
    path = CACHE / name
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        own = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=CACHE))
        try:
            make(own / name)
            os.replace(own / name, path)
        except OSError:
            if not path.exists():  # another process was first
                raise
        finally:
            shutil.rmtree(own)
    return path
