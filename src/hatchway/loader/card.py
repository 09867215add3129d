"""A rank's card: where its board lies, which other ranks there are, and who works for it.

It lies in memory without a name. Other ranks reach it through ``/proc``, by an
:class:`Address`, and from it everything that its board is made of. They note their own
addresses on it (under the card's lock), so that its workers find them; workers of theirs
that work for it note who they are (under the board's lock).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import mmap
import os
import secrets
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hatchway.loader.board import BoardShape
from hatchway.loader.commons import Commons, CommonsConfig
from hatchway.loader.distant import Distant, DistantBell
from hatchway.loader.errors import SharedMemoryError
from hatchway.loader.rules import DeliveryRules
from hatchway.loader.shared import Bell, ProcessLock, SharedMapping

# Of other ranks on one host; those that are gone make room.
MOST_NEIGHBOURS = 64
# After a page of cells what the board is made of, as text; after that the tables.
_TEXT = mmap.PAGESIZE
_TABLES = _TEXT + (1 << 17)


class Address(NamedTuple):
    """Where a card can be found; the nonce says that it is that one."""

    pid: int
    descriptor: int
    inode: int
    nonce: int


class _Cell:
    VERSION: Final = 0  # grows when a neighbour is added
    IS_CLOSING: Final = 1
    NUM_BYTES: Final = 2
    ADDRESS: Final = 3  # four cells
    COUNT: Final = 7


class Guest:
    """The columns of what a guest, another rank's worker, notes of itself."""

    PID: Final = 0
    STARTED: Final = 1
    HOME: Final = 2  # the address of its own rank's card: four cells
    COUNT: Final = 6


class Card:
    """A rank's card, in its own processes or in another's.

    Attributes:
        neighbours: The addresses of other ranks' cards, a row each.
        guests: A row for each id that another rank's worker may have on the board.
    """

    neighbours: NDArray[np.int64]
    guests: NDArray[np.int64]

    def __init__(self, num_guests: int) -> None:
        nbytes = _TABLES + 8 * (4 * MOST_NEIGHBOURS + Guest.COUNT * num_guests)
        mapping = SharedMapping(-(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE)
        self._open(mapping, num_guests)
        address = (os.getpid(), mapping.fd, _inode(mapping.fd), secrets.randbits(62))
        self._cells[_Cell.ADDRESS : _Cell.ADDRESS + 4] = address

    def _open(self, mapping: SharedMapping, num_guests: int) -> None:
        self._mapping = mapping
        self._cells = np.frombuffer(mapping.memory, np.int64, _Cell.COUNT)
        count = 4 * MOST_NEIGHBOURS
        words = np.frombuffer(mapping.memory, np.int64, count, _TABLES)
        self.neighbours = words.reshape(MOST_NEIGHBOURS, 4)
        count, offset = Guest.COUNT * num_guests, _TABLES + 8 * count
        words = np.frombuffer(mapping.memory, np.int64, count, offset)
        self.guests = words.reshape(num_guests, Guest.COUNT)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._mapping, len(self.guests))

    @property
    def address(self) -> Address:
        """Where it can be found."""
        return Address(*self._cells[_Cell.ADDRESS : _Cell.ADDRESS + 4].tolist())

    @property
    def version(self) -> int:
        """Another number each time that a neighbour was added."""
        return int(self._cells[_Cell.VERSION])

    @property
    def is_closing(self) -> bool:
        """Whether its rank is about to stop its workers."""
        return bool(self._cells[_Cell.IS_CLOSING])

    def say_closing(self) -> None:
        """From now on what happens to its rank's workers is no sample's fault."""
        self._cells[_Cell.IS_CLOSING] = 1

    def note_neighbour(self, address: Address) -> bool:
        """Tell the card's workers of another rank's card; False if there is no room."""
        rows = self.neighbours
        with ProcessLock.of(self._mapping.fd):
            if address in self.known():
                return True
            for row in rows:
                if not row[3] or not is_there(Address(*row.tolist())):
                    row[3] = 0
                    row[:] = address
                    self._cells[_Cell.VERSION] += 1
                    return True
        return False

    def known(self) -> list[Address]:
        """The addresses that were noted."""
        return [Address(*row.tolist()) for row in self.neighbours if row[3]]

    def describe(self, commons: Commons, num_own: int, traits: dict[str, str]) -> None:
        """Write down what the board is made of, and what its samples come from.

        Args:
            commons: The board's.
            num_own: How many ids belong to the rank's own workers.
            traits: What must be the same for a worker of another rank's.
        """
        config, board, mapping, lock, bell, bells = commons.parts
        text = json.dumps(
            {
                "shape": dataclasses.asdict(config.shape),
                "rules": config.rules._asdict(),
                "buffer_bytes": config.buffer_bytes,
                "num_own": num_own,
                "num_guests": len(self.guests),
                "traits": traits,
                "board": [board.fd, _inode(board.fd), board.nbytes],
                "buffer": [mapping.fd, _inode(mapping.fd), mapping.nbytes],
                "lock": [lock.fileno(), _inode(lock.fileno())],
                "bells": [[*one.ends, _inode(one.fileno())] for one in (*bells, bell)],
            }
        ).encode()
        memoryview(self._mapping.memory)[_TEXT : _TEXT + len(text)] = text
        self._cells[_Cell.NUM_BYTES] = len(text)

    def close(self) -> None:
        """Close its descriptor: nobody finds it any more."""
        self._mapping.close()


def _reopen(mapping: SharedMapping, num_guests: int) -> Card:
    card = object.__new__(Card)
    card._open(mapping, num_guests)
    return card


def _inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino


class Neighbour:
    """Another rank's card, opened.

    Attributes:
        process: The rank's training process.
        card: The card.
        traits: What the rank's samples come from.
        num_own: How many ids of its board belong to its own workers.

    Raises:
        OSError: If it is gone.
    """

    def __init__(self, address: Address) -> None:
        with contextlib.ExitStack() as made:
            self.process = Distant(address.pid)
            made.callback(self.process.close)
            fd = self.process.open(address.descriptor, address.inode, os.O_RDWR)
            mapping = SharedMapping.of(fd, os.fstat(fd).st_size)
            made.callback(mapping.close)
            cells = np.frombuffer(mapping.memory, np.int64, _Cell.COUNT)
            if cells[_Cell.ADDRESS + 3] != address.nonce or not cells[_Cell.NUM_BYTES]:
                raise OSError(errno.ESTALE, f"process {address.pid} has another card by now")
            text = bytes(mapping.memory[_TEXT : _TEXT + cells[_Cell.NUM_BYTES]])
            made.pop_all()
        self._said: dict[str, Any] = json.loads(text)
        self.traits: dict[str, str] = self._said["traits"]
        self.num_own: int = self._said["num_own"]
        self.card = _reopen(mapping, self._said["num_guests"])

    def wake_workers(self) -> None:
        """Have the rank's own workers look around."""
        for _, write, inode in self._said["bells"][: self.num_own]:
            DistantBell(self.process, write, inode).ring()

    def commons(self) -> Commons:
        """The rank's board and buffer, opened; its workers' bells only to be rung.

        Raises:
            OSError: If the rank is gone, or has closed them.
        """
        said = self._said
        config = CommonsConfig(
            BoardShape(**said["shape"]), DeliveryRules(**said["rules"]), said["buffer_bytes"]
        )
        with contextlib.ExitStack() as made:
            board, buffer = self._mapping(*said["board"]), self._mapping(*said["buffer"])
            number, inode = said["lock"]
            lock = ProcessLock.of(self.process.open(number, inode, os.O_RDWR))
            made.callback(lock.close)
            _, write, inode = said["bells"][-1]
            bell = Bell.of(-1, self.process.open(write, inode, os.O_WRONLY | os.O_NONBLOCK))
            made.pop_all()
        bells: list[Bell] = [
            DistantBell(self.process, write, inode) for _, write, inode in said["bells"][:-1]
        ]
        return Commons.of(config, board, buffer, lock, bell, bells)

    def _mapping(self, number: int, inode: int, nbytes: int) -> SharedMapping:
        mapping = SharedMapping.of(self.process.open(number, inode, os.O_RDWR), nbytes)
        mapping.close()  # it stays mapped
        return mapping

    def bell_of(self, worker_id: int) -> Bell:
        """The bell of one worker of the rank's board, to be waited for.

        Raises:
            OSError: If the rank is gone, or has closed it.
        """
        read, _, inode = self._said["bells"][worker_id]
        return Bell.of(self.process.open(read, inode, os.O_RDONLY | os.O_NONBLOCK), -1)

    def close(self) -> None:
        """Let go of it; what was opened through it stays."""
        self.card.close()
        self.process.close()


def is_there(address: Address) -> bool:
    """Whether a card can still be found at an address."""
    try:
        neighbour = Neighbour(address)
    except (OSError, SharedMemoryError):
        return False
    neighbour.close()
    return not neighbour.card.is_closing
