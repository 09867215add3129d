"""Opening the layers that a stored index vouches for, without reading them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from hatchway.disk import kernel
from hatchway.disk.fields import Feature
from hatchway.disk.files import Descriptors, Identity, ImageFile, identity_of
from hatchway.disk.image import Image
from hatchway.disk.index.sidecar import has_sidecar
from hatchway.disk.layout import Known, Layout
from hatchway.disk.naming import Allowed

if TYPE_CHECKING:
    from hatchway.disk.index.records import LayerRecord
    from hatchway.disk.index.stored import StoredIndex


class Shortcut:
    """From a layer down, the layers that a stored index knows and that are what they were.

    Args:
        allowed: Which files may be opened.
        descriptors: Bounds how many files are open.
        locks: Whether they are locked, as QEMU locks what it reads.
        opens: Whether they are opened; else each is, for as long as that takes, when it is read,
            and is not locked. What it was is looked at in any case.

    Attributes:
        index: The index that was used; None as long as none was.
        num_layers: How many layers of it hold.
    """

    def __init__(
        self, allowed: Allowed, descriptors: Descriptors, *, locks: bool, opens: bool = True
    ) -> None:
        self._allowed = allowed
        self._descriptors = descriptors
        self._locks = locks
        self._opens = opens
        self._found: StoredIndex | None = None
        self._paths: list[str] = []
        self._held: list[tuple[int, Identity]] = []
        self.index: StoredIndex | None = None
        self.num_layers = 0

    def take(self, path: Path, image_format: str | None) -> list[Image] | None:
        """The layers from a file of the chain down, the highest first; None if they are not known.

        Args:
            path: Of the file.
            image_format: What the layer above says that it is; None if it does not.
        """
        if self._found is None and not self._find(path):
            return None
        assert self._found is not None
        number = len(self._held) - 1
        record = self._found.layers[number]
        # What lies above the layers that hold was opened one by one, and may lead elsewhere.
        if self._paths[number] != str(path) and not self._is_same(path, number):
            return None
        if image_format not in (None, record.format):
            return None
        self.index, self.num_layers, self._found = self._found, len(self._held), None
        return [self._image(number) for number in range(number, -1, -1)]

    def close(self) -> None:
        """Close what was not taken."""
        if self._found is not None:
            self._drop(0)
            self._found.close()
            self._found = None

    def _find(self, path: Path) -> bool:
        """Look for an index beside a layer, and hold those of its layers that are as it says."""
        if not has_sidecar(path):
            return False
        from hatchway.disk.index.stored import StoredIndex  # most chains have none

        found = StoredIndex.find(path)
        if found is None:
            return False
        self._found = found
        directory = str(found.path.parent)
        paths = [os.path.join(directory, record.name) for record in found.layers]
        # It may know more layers than lie below here, and of another overlay.
        if str(path) in paths:
            del paths[paths.index(str(path)) + 1 :]
        self._paths, count = paths, len(paths) if self._opens else 0
        if not self._may_open(found) or not self._descriptors.may_keep(count):
            self.close()
            return False
        if self._opens:
            self._held = kernel.open_files(paths, locks=self._locks) or []
            self._descriptors.forget(count - len(self._held))
        else:
            self._held = [(-1, identity) for identity in _identities_of(paths)]
        num_layers = found.valid_prefix([identity for _, identity in self._held])
        self._drop(num_layers)
        if not num_layers:
            self.close()
        return num_layers > 0

    def _may_open(self, found: StoredIndex) -> bool:
        """Whether all its layers lie where a chain may lead; none of them is opened by a link."""
        directories = {os.path.dirname(record.name) for record in found.layers}
        top = found.path
        return all(self._allowed.has(found.path_of(one) / top.name) for one in directories)

    def _is_same(self, path: Path, number: int) -> bool:
        try:
            status = os.stat(path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._held[number][1][:2]

    def _image(self, number: int) -> Image:
        assert self.index is not None
        file = ImageFile.of(self._paths[number], self._descriptors, *self._held[number])
        return Image.of(file, _known(self.index.layers[number]))

    def _drop(self, first: int) -> None:
        """Close the files from number ``first`` on."""
        if self._opens:
            for fd, _ in self._held[first:]:
                os.close(fd)
            self._descriptors.forget(len(self._held) - first)
        del self._held[first:]


def _identities_of(paths: list[str]) -> list[Identity]:
    """Of regular files, none of them a link, up to the first that is none."""
    found = []
    for path in paths:
        try:
            status = os.lstat(path)
        except OSError:
            break
        if not stat.S_ISREG(status.st_mode):
            break
        found.append(identity_of(status))
    return found


def _known(record: LayerRecord) -> Known:
    if record.format == "raw":
        return Known("raw", record.size, None)
    layout = Layout(
        record.cluster_bits,
        record.l1_offset,
        record.l1_size,
        bool(record.incompatible & Feature.EXTENDED_L2),
        bool(record.incompatible & Feature.DATA_FILE),
        record.version >= 3,
    )
    return Known("qcow2", record.size, layout)
