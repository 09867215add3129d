"""Which files an image may lead to, and where they are."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from hatchway.disk.errors import BackingFileError, UnsupportedImageError

_PROTOCOL = re.compile(r"^[A-Za-z0-9+.-]+:")


class Allowed:
    """The directories that backing and data files may lie in.

    An image that comes from somewhere else may name any file as its base; its reader would
    then read that file's contents out to whoever made the image.

    Args:
        top: The image that is opened.
        more: True for any directory; or further directories.
    """

    def __init__(self, top: Path, more: bool | Sequence[str | os.PathLike[str]] = False) -> None:
        self._is_all = more is True
        listed = [] if isinstance(more, bool) else [Path(one).resolve() for one in more]
        self._directories = [top.resolve().parent, *listed]

    def check(self, path: Path, named_by: Path, role: str) -> None:
        """Raise if ``path``, which ``named_by`` names, may not be opened.

        Raises:
            BackingFileError: If so.
        """
        if self._is_all:
            return
        real = path.resolve()
        if not any(real.is_relative_to(directory) for directory in self._directories):
            raise BackingFileError(
                f"{named_by} names {path} as its {role}, which lies outside "
                f"{self._directories[0]}; if you trust the image, allow that directory "
                "(allow_backing=, --allow-backing)",
                path=named_by,
            )


def path_of(name: str, named_by: Path, role: str) -> Path:
    """The file that a name in an image means: relative names begin at the image's directory.

    Args:
        name: As it is written in the header.
        named_by: The image.
        role: What the file is to it, for messages.

    Raises:
        UnsupportedImageError: If it is no file of this host.
    """
    if name.startswith("json:"):
        name = _of_json(name[len("json:") :], named_by, role)
    elif name.startswith("file:"):
        name = name[len("file:") :]
    elif _PROTOCOL.match(name.split("/")[0]):
        raise UnsupportedImageError(
            f"{named_by} names {name!r} as its {role}, which is no file of this host",
            path=named_by,
        )
    return named_by.parent / name


def _of_json(text: str, named_by: Path, role: str) -> str:
    """The file that a description in QEMU's JSON means, where it means a file."""
    try:
        description = json.loads(text)
        while isinstance(description.get("file"), dict):
            description = description["file"]
        name = description.get("filename", description.get("file.filename"))
        driver = description.get("driver", description.get("file.driver", "file"))
    except (ValueError, AttributeError):
        name, driver = None, "?"
    if not isinstance(name, str) or driver not in ("file", "host_device", "qcow2", "raw"):
        raise UnsupportedImageError(
            f"{named_by} describes its {role} as json:{text}, which is no file of this host",
            path=named_by,
        )
    return name
