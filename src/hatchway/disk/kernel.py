"""The leaves of a chain in native code; see native/disk/chain.hpp."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatchway.base.native import load_kernels
from hatchway.disk.extents import limits_of
from hatchway.disk.files import Identity
from hatchway.disk.image import Image
from hatchway.disk.leaves import Leaf

if TYPE_CHECKING:
    from hatchway.disk._native import ChainKernel, NbdServer, TableReader

ABI_VERSION = 4

_MODULE: Any = load_kernels("disk", ABI_VERSION)


class KernelLeaves:
    """What :class:`~hatchway.disk.leaves.Leaves` is, and reads, in native code.

    Args:
        images: The chain's, the base first.
        granule: Bytes of a granule: the smallest of the chain's.
        most_bytes: What the leaves may take together; one there is in any case.
        make: Makes a leaf that native code does not.
        makes_all: Whether it makes all of them.
        top_fd: A descriptor of the highest file's clusters that may be written to, or -1.
        key: Who has the same has the same files, which nobody changes meanwhile: leaves are
            kept once for all of them. None to share nothing.
    """

    def __init__(
        self,
        images: Sequence[Image],
        granule: int,
        most_bytes: int,
        make: Callable[[int], Leaf],
        *,
        makes_all: bool = False,
        top_fd: int = -1,
        key: Hashable = None,
    ) -> None:
        layers = _described(images, top_fd)
        twin = None if key is None else _SHARING.get((granule, key))
        self.kernel: ChainKernel = _MODULE.ChainKernel(
            layers,
            size=images[-1].size,
            granule_bits=granule.bit_length() - 1,
            most_bytes=most_bytes,
            may_merge=not makes_all,
            twin=None if twin is None else twin.kernel,
        )
        self._make = make
        self.read_at = self.kernel.read_at
        self.read_into = self.kernel.read_into
        self.overwrite = self.kernel.overwrite
        self.allow_overwriting = self.kernel.allow_overwriting
        self.stop_overwriting = self.kernel.stop_overwriting
        self.update = self.kernel.update
        self.drop = self.kernel.drop
        self.settle = self.kernel.settle
        _LIVING.add(self)
        if key is not None:
            _SHARING.setdefault((granule, key), self)

    @property
    def num_bytes(self) -> int:
        """What the leaves take now."""
        return self.kernel.num_bytes()

    def load(self, rank: int) -> Leaf:
        """The leaf of a rank, made if it is not there."""
        found = self.kernel.leaf(rank)
        if found is None and self.kernel.load(rank):
            found = self.kernel.leaf(rank)
        if found is None:
            leaf = self._make(rank)
            self.kernel.put(rank, leaf.words, leaf.layers)
            return leaf
        return Leaf.of(found)

    def resize(self, size: int) -> None:
        """The disk has another size now."""
        self.kernel.resize(size)

    def replace_top(self, images: Sequence[Image], top_fd: int) -> None:
        """The highest file lies above the one that was it; leaves say what they said.

        On return nobody uses the descriptors that the one below had until now.

        Args:
            images: The two.
            top_fd: A descriptor of the highest file's clusters that may be written to.
        """
        self.kernel.replace_top(_described(images, top_fd))

    def close(self) -> None:
        """The files are closed after this."""
        self.kernel.close()


def is_built() -> bool:
    """Whether there is native code."""
    return _MODULE is not None


def open_files(paths: Sequence[str], *, locks: bool) -> list[tuple[int, Identity]] | None:
    """Open regular files to be read, none of them a link.

    Args:
        paths: Of the files.
        locks: Whether they are locked, as QEMU locks what it reads.

    Returns:
        Descriptor and identity of each, up to the first that cannot be opened so; None if there
        is no native code.
    """
    if _MODULE is None:
        return None
    opened = _MODULE.open_files([os.fsencode(path) for path in paths], locks)
    return [(fd, Identity._make(fields)) for fd, *fields in opened]


def table_reader(image: Image) -> TableReader | None:
    """What takes the L2 entries of a qcow2 file in native code; None where Python is to do it."""
    if _MODULE is None or image.layout is None or image.file.fd < 0:
        return None
    reader: TableReader = _MODULE.TableReader(_layer(image, image.size))
    return reader if reader.is_open else None


def nbd_server_class() -> type[NbdServer]:
    """The server in native code.

    Raises:
        RuntimeError: If there is no native code.
    """
    found: type[NbdServer] = _needed().NbdServer
    return found


def listen_at(path: Path) -> int:
    """The descriptor of a new socket that listens at a name in the file system, for this user.

    Raises:
        OSError: If that name cannot be had.
        RuntimeError: If there is no native code.
    """
    try:
        fd: int = _needed().listen_at(os.fsencode(path))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    return fd


def share_arena() -> None:
    """Have the threads of a process that does nothing but serve take less memory."""
    if _MODULE is not None:
        _MODULE.share_arena()


def _needed() -> Any:
    if _MODULE is None:
        raise RuntimeError(
            "serving needs Hatchway's compiled kernels, which are not built here (`hatchway "
            "doctor` says more); install a wheel, or a C++ compiler and then Hatchway"
        )
    return _MODULE


def _described(images: Sequence[Image], top_fd: int) -> list[tuple[int, ...]]:
    layers = list(map(_layer, images, limits_of(images)))
    if top_fd >= 0:
        fd, _, *others = layers[-1]
        layers[-1] = (fd, top_fd, *others)
    return layers


def _layer(image: Image, limit: int) -> tuple[int, ...]:
    return (image.file.fd, image.data.fd, image.size, limit, *(image.layout or ()))


# What several openers of the same files in this process have in common.
_SHARING: weakref.WeakValueDictionary[tuple[int, Hashable], KernelLeaves] = (
    weakref.WeakValueDictionary()
)
# Threads of the parent may hold locks at a fork; the child has none of them.
_LIVING: weakref.WeakSet[KernelLeaves] = weakref.WeakSet()


def _after_fork() -> None:
    for leaves in _LIVING:
        leaves.kernel.after_fork()


os.register_at_fork(after_in_child=_after_fork)
