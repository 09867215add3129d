"""A plugin of nbdkit that serves a chain; run as a program, it prints where it is.

    nbdkit python "$(python -m hatchway.disk.nbdkit_plugin)" image=top.qcow2

The functions are the callbacks of nbdkit-python-plugin(3), whose handle is the chain: one for
all connections. Parameters are ``image`` and those of :class:`~hatchway.disk.Chain` by name;
``allow_backing`` may be given several times, as directories.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hatchway.disk import Chain

API_VERSION = 2

# There only inside nbdkit, which runs this file as __main__.
_NBDKIT: Any = importlib.import_module("nbdkit") if importlib.util.find_spec("nbdkit") else None
_THIS_FILE = Path(__file__).absolute()  # which nbdkit takes away once the file has run
_MOST_REQUEST_BYTES = 32 << 20
_PREFERRED_BYTES = 4096
# nbdkit takes what lies at the beginning of a range; clients ask again for the rest.
_MOST_EXTENTS = 4096


class _Export:
    """What is served: parameters first, then a chain."""

    def __init__(self) -> None:
        self._image: str | None = None
        self._options: dict[str, Any] = {}
        self._chain: Chain | None = None

    def config(self, key: str, value: str) -> None:
        """Take a parameter of the command line.

        Raises:
            ValueError: If there is none of that name, or it cannot have that value.
        """
        if key == "image":
            self._image = value
        elif key == "allow_backing":
            allowed = _BOOLEANS.get(value.lower())
            before = self._options.get(key)
            directories = before if isinstance(before, list) else []
            self._options[key] = [*directories, value] if allowed is None else allowed
        elif key in _PARAMETERS:
            self._options[key] = _PARAMETERS[key](value)
        else:
            known = ", ".join(["image", "allow_backing", *_PARAMETERS])
            raise ValueError(f"there is no parameter {key!r}; there are {known}")

    def config_complete(self) -> None:
        """Check that an image was named.

        Raises:
            ValueError: If not.
        """
        if self._image is None:
            raise ValueError("image=PATH must say what to serve")

    def get_ready(self) -> None:
        """Open the chain once, while nbdkit can still say that it does not.

        Raises:
            ImageError: If a file cannot be opened, is damaged, or is held by a writer.
        """
        if importlib.util.find_spec("hatchway") is None:
            # nbdkit's interpreter knows nothing of the environment that this file lies in.
            sys.path.append(str(_THIS_FILE.parents[2]))
        self._opened().close()

    def after_fork(self) -> None:
        """Open the chain in the process that serves it: a writable one is not for forks.

        Raises:
            ImageError: As in :meth:`get_ready`.
        """
        self._chain = self._opened()

    def _opened(self) -> Chain:
        from hatchway.disk import Chain

        assert self._image is not None  # config_complete
        return Chain(self._image, **self._options)

    def open(self, readonly: bool) -> Chain:
        """The chain, for a connection."""
        assert self._chain is not None  # after_fork
        return self._chain

    def cleanup(self) -> None:
        """Flush and close the chain."""
        if self._chain is not None:
            self._chain.close()


def _boolean(value: str) -> bool:
    try:
        return _BOOLEANS[value.lower()]
    except KeyError:
        raise ValueError(f"a parameter must be true or false, not {value!r}") from None


def _size(value: str) -> int:
    found: int = _NBDKIT.parse_size(value)
    return found


_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_PARAMETERS: dict[str, Callable[[str], Any]] = {
    "writable": _boolean,
    "image_format": str,
    "snapshot": str,
    "cache_bytes": _size,
    "max_descriptors": int,
    "lock": _boolean,
}

_export = _Export()
config = _export.config
config_complete = _export.config_complete
get_ready = _export.get_ready
after_fork = _export.after_fork
open = _export.open
cleanup = _export.cleanup


def thread_model() -> int:
    """Any number of requests at a time."""
    found: int = _NBDKIT.THREAD_MODEL_PARALLEL
    return found


def export_description(chain: Chain) -> str:
    """The active image."""
    return str(chain.images[-1].path)


def get_size(chain: Chain) -> int:
    """Bytes of the disk."""
    return chain.size


def block_size(chain: Chain) -> tuple[int, int, int]:
    """Bytes of a request: at least, preferred, at most."""
    return 1, max(_PREFERRED_BYTES, chain.granule_bytes), _MOST_REQUEST_BYTES


def can_multi_conn(chain: Chain) -> bool:
    """What is flushed on one connection is flushed on all: they share the chain."""
    return True


def can_write(chain: Chain) -> bool:
    """Whether it was opened for writing."""
    return chain.is_writable


def can_flush(chain: Chain) -> bool:
    """As :func:`can_write`."""
    return chain.is_writable


def can_trim(chain: Chain) -> bool:
    """As :func:`can_write`."""
    return chain.is_writable


def can_zero(chain: Chain) -> bool:
    """As :func:`can_write`."""
    return chain.is_writable


def can_fua(chain: Chain) -> int:
    """Nbdkit flushes after a write that asks for it."""
    found: int = _NBDKIT.FUA_EMULATE if chain.is_writable else _NBDKIT.FUA_NONE
    return found


def can_cache(chain: Chain) -> int:
    """Nbdkit reads what a client wants to be cached."""
    found: int = _NBDKIT.CACHE_EMULATE
    return found


def can_extents(chain: Chain) -> bool:
    """Clients may ask what is data and what reads as zeros."""
    return True


def pread(chain: Chain, buffer: Any, offset: int, flags: int) -> None:
    """Fill a buffer with bytes of the disk."""
    with _numbered_errors():
        chain.readinto_at(offset, buffer)


def pwrite(chain: Chain, buffer: Any, offset: int, flags: int) -> None:
    """Write bytes to the disk."""
    with _numbered_errors():
        chain.write_at(offset, buffer)


def flush(chain: Chain, flags: int) -> None:
    """Return when all that was written survives a crash."""
    with _numbered_errors():
        chain.flush()


def trim(chain: Chain, count: int, offset: int, flags: int) -> None:
    """Give up the clusters of a range."""
    with _numbered_errors():
        chain.discard_at(offset, count)


def zero(chain: Chain, count: int, offset: int, flags: int) -> None:
    """Have a range read as zeros."""
    with _numbered_errors():
        may_unmap = bool(flags & _NBDKIT.FLAG_MAY_TRIM)
        chain.write_zeroes_at(offset, count, may_unmap=may_unmap)


def extents(chain: Chain, count: int, offset: int, flags: int) -> list[tuple[int, int, int]]:
    """What of a range, from its beginning on, is data and what reads as zeros."""
    most = 1 if flags & _NBDKIT.FLAG_REQ_ONE else _MOST_EXTENTS
    empty = _NBDKIT.EXTENT_HOLE | _NBDKIT.EXTENT_ZERO
    with _numbered_errors():
        found = itertools.islice(chain.map(offset, offset + count), most)
        return [
            (one.start, one.length, empty if one.kind in ("hole", "zero") else 0) for one in found
        ]


@contextlib.contextmanager
def _numbered_errors() -> Iterator[None]:
    """Nbdkit logs the error, and the client is told its number."""
    try:
        yield
    except Exception as error:
        numbers = (getattr(one, "errno", None) for one in (error, error.__cause__))
        _NBDKIT.set_error(next(filter(None, numbers), errno.EIO))
        raise


if __name__ == "__main__" and _NBDKIT is None:
    sys.stdout.write(f"{_THIS_FILE}\n")
