"""Sharing workers with the other ranks of this host: the training process's side."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Any

from hatchway.loader.card import Address, Card, Neighbour
from hatchway.loader.commons import Commons
from hatchway.loader.distant import watch
from hatchway.loader.errors import SharedMemoryError
from hatchway.loader.guests import Guests
from hatchway.loader.likeness import difference, traits_of
from hatchway.loader.rendezvous import Bond, Job, Sign, job_here
from hatchway.loader.shared import Bell

_LONGEST_TOPIC = 1024
# Workers for whom there is no id left on a board work for others.
_MOST_GUESTS = 128
# Each takes three descriptors of the training process, which may have few.
_DESCRIPTORS_FOR_A_GUEST = 8


def sharing_of(loader: Any) -> Sharing | None:
    """How a pass over ``loader`` shares its workers; None if it does not."""
    job = job_here(loader._agreed_name) if loader.wants_shared_workers else None
    if job is None:
        return None
    missing = _missing(job)
    if missing:
        loader.bond.warn(f"share_workers has no effect here: {missing}")
        return None
    return Sharing(loader, job)


def _missing(job: Job) -> str:
    """What is lacking here, in words; empty if nothing."""
    try:
        os.close(os.memfd_create("hatchway"))
    except (AttributeError, OSError):
        return "it needs memory without a name (memfd), as Linux has it"
    try:
        os.close(watch(os.getpid()))
    except (AttributeError, OSError):
        return "it needs pidfd_open (Linux 5.3) to notice when another rank's worker dies"
    if not job.name:
        # Another job of this user's may look the same.
        return (
            "nothing says which job this process is a rank of; call init_process_group() before "
            "the first pass, or set MASTER_ADDR and MASTER_PORT"
        )
    return ""


def _most_guests() -> int:
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return _MOST_GUESTS
    return min(_MOST_GUESTS, descriptors // _DESCRIPTORS_FOR_A_GUEST)


class Sharing:
    """What one pass, or one set of persistent workers, shares with other ranks.

    Args:
        loader: The user's.
        job: Whose rank this process is.

    Attributes:
        num_guests: How many workers of other ranks may come at a time.
        card: Where the board is described, once that is there.
    """

    card: Card

    def __init__(self, loader: Any, job: Job) -> None:
        self._bond: Bond = loader.bond  # not the loader: this lives as long as its workers
        self._num_own: int = loader.num_workers
        self.num_guests = min(_most_guests(), (job.num_local - 1) * self._num_own)
        # Workers that were started for another pass may have another dataset: it may have
        # been changed in between, for the epoch say.
        self._topic = f"{job.name} {self._bond.place} {self._bond.num_passes}"
        self._bond.num_passes += 1
        # Signs are public, and anybody may put up another's: the card says so itself.
        self._traits = {"job": self._topic[-_LONGEST_TOPIC:], **traits_of(loader)}
        self._sign: Sign | None = None
        self._own_bells: list[Bell] = []

    def open(self, commons: Commons) -> Guests:
        """Write down what the board is made of; who comes to work for it."""
        self._own_bells = commons.worker_bells[: self._num_own]
        self.card = Card(self.num_guests)
        self.card.describe(commons, self._num_own, self._traits)
        return Guests(self.card, commons, self._num_own)

    def meet(self) -> None:
        """Say where the card is, and exchange it with the ranks that have begun before."""
        try:
            self._sign = Sign(self._topic, self.card.address)
            others = self._sign.others()
        except OSError as error:
            self._bond.warn(f"share_workers has no effect here: {error}")
            return
        for address in others:
            if address.pid != os.getpid():
                with contextlib.suppress(OSError, SharedMemoryError):
                    self._exchange(address)

    def _exchange(self, address: Address) -> None:
        """Have the workers of both ranks find the other's board."""
        other = Neighbour(address)
        try:
            unlike = difference(self._traits, other.traits)
            if unlike:
                self._bond.warn(
                    f"share_workers: {unlike} is not the same in process {address.pid}, which "
                    "iterates over the loader that was made at the same line; these two "
                    "share no workers",
                )
                return
            if other.card.note_neighbour(self.card.address):
                other.wake_workers()
            self.card.note_neighbour(address)
        finally:
            other.close()
        for bell in self._own_bells:
            bell.ring()

    def say_closing(self) -> None:
        """No other rank is to come any more, and no death is a sample's fault."""
        self.card.say_closing()
        if self._sign is not None:
            self._sign.close()

    def close(self) -> None:
        """Close every descriptor."""
        self.say_closing()
        self.card.close()
