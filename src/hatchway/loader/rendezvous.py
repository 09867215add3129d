"""How the ranks of one job on one host find each other's boards, without waiting for anyone.

A rank binds an abstract Unix socket, through which nothing is ever sent: its name says
whose board it is and where its card lies. The kernel lists all names, and forgets one when
the last process that holds it ends: nothing is left behind.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import sys
import warnings
import weakref
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed

from hatchway.loader.card import Address

_NAMES = Path("/proc/net/unix")
_MOST_RANKS = 16
_SAY_THE_JOB = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
_ADDRESS = r"(\d{1,9})\.(\d{1,9})\.(\d{1,18})\.(\d{1,19})"
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Job(NamedTuple):
    """What this process is a rank of.

    Attributes:
        name: The same in all its ranks, and in no other job's; empty if nothing tells.
        num_local: How many ranks it has on this host at most, as far as is known.
    """

    name: str
    num_local: int


class AgreedName:
    """A name that the first rank to ask has chosen; no rank waits for another.

    A process group is asked once: the rank that keeps its store may be gone, or stopped, later.
    """

    def __init__(self) -> None:
        self._names: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()

    def of_group(self) -> str:
        """The name in the present process group; empty if there is none to be had."""
        # What a rank of an earlier job, which hangs, was started with may be the same as here.
        try:
            group = torch.distributed.group.WORLD
            if group not in self._names:
                store = torch.distributed.distributed_c10d._get_default_store()
                name = store.compare_set("hatchway/job", "", secrets.token_hex(8))
                self._names[group] = bytes(name).decode()
            return self._names[group]
        except Exception:
            return ""  # the rank that keeps the store is gone, or the backend has none


def job_here(agreed: AgreedName) -> Job | None:
    """The job of which this process is a rank; None if it is alone."""
    name, size = "", 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        name, size = agreed.of_group(), torch.distributed.get_world_size()
    elif "RANK" in os.environ:
        size = _number("WORLD_SIZE", 1)
    num_local = min(size, _number("LOCAL_WORLD_SIZE", _MOST_RANKS))
    if num_local <= 1:
        return None
    said = [os.environ.get(key, "") for key in _SAY_THE_JOB]
    return Job(name or ("/".join(said) if any(said) else ""), num_local)


def _number(name: str, otherwise: int) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        return otherwise


class Places:
    """Tells which loader of a program one is: the n-th that was made at a line of it.

    Kept for the life of the process, since that is what the ranks' programs share.
    """

    def __init__(self) -> None:
        self._made: Counter[str] = Counter()

    def next(self) -> str:
        """The place of a loader that is being made: the innermost line outside Hatchway."""
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
            frame = frame.f_back
        line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        self._made[line] += 1
        return f"{line}#{self._made[line]}"


class Bond:
    """What one loader is to the same loader of other ranks.

    Attributes:
        place: Where it was made; the same in all ranks.
        num_passes: How many passes, or sets of persistent workers, it has begun to share.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.num_passes = 0
        self._has_warned = False

    def warn(self, text: str) -> None:
        """Warn once."""
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(text, stacklevel=2)


class Sign:
    """Says to the other ranks where a card is, for as long as it is not closed.

    Args:
        topic: What all say who look for each other.
        address: Where the card is.

    Raises:
        OSError: If the system has no sockets with such names, or does not list them.
    """

    def __init__(self, topic: str, address: Address) -> None:
        self._prefix = f"@hatchway.{hashlib.blake2b(topic.encode(), digest_size=16).hexdigest()}."
        self._own = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = self._prefix + ".".join(map(str, address))
        try:
            self._socket.bind(name.replace("@", "\0", 1))
            if address not in self._listed():
                raise OSError(f"{_NAMES} does not list {name}")
        except OSError:
            self.close()
            raise

    def others(self) -> list[Address]:
        """The cards of all others who say so, in this process or in another."""
        return [address for address in self._listed() if address != self._own]

    def _listed(self) -> list[Address]:
        found = []
        for line in _NAMES.read_text(errors="replace").splitlines():
            # Any user of the host may bind a name that begins so.
            name = re.search(f"{re.escape(self._prefix)}{_ADDRESS}$", line)
            if name is not None:
                found.append(Address(*map(int, name.groups())))
        return found

    def close(self) -> None:
        """Say no more."""
        self._socket.close()
