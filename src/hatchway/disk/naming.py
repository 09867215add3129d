"""Which files an image may lead to, and where they are."""

from __future__ import annotations

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
        # Directories as they were named, found to be allowed: following links takes most of the
        # time of opening a chain.
        self._known: set[Path] = set()

    def has(self, path: Path) -> bool:
        """Whether ``path`` may be opened."""
        if self._is_all or (path.parent in self._known and not path.is_symlink()):
            return True
        real = path.resolve()
        if not any(real.is_relative_to(directory) for directory in self._directories):
            return False
        if not path.is_symlink():
            self._known.add(path.parent)
        return True

    def check(self, path: Path, named_by: Path, role: str) -> None:
        """Raise if ``path``, which ``named_by`` names, may not be opened.

        Raises:
            BackingFileError: If so.
        """
        if not self.has(path):
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


def name_of(path: Path, named_by: Path) -> str:
    """The name by which an image leads to a file: what :func:`path_of` makes that file of.

    It is relative where both have a directory in common other than the root, so that they can
    be moved together.

    Args:
        path: The file.
        named_by: The image; it need not be there yet.
    """
    target = os.path.join(os.path.realpath(path.parent), path.name)
    directory = os.path.realpath(named_by.parent)
    if os.path.commonpath([target, directory]) == os.sep:
        return target
    name = os.path.relpath(target, directory)
    return f"./{name}" if _PROTOCOL.match(name.split("/")[0]) else name


def _of_json(text: str, named_by: Path, role: str) -> str:
    """The file that a description in QEMU's JSON means, where it means a file."""
    import json  # few names need it

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
