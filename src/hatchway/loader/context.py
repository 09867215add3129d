"""What a sample may know of itself while it is made, in whatever process or thread that is."""

from __future__ import annotations

import threading
from collections.abc import Callable


class _Here(threading.local):
    key: Callable[[], int] | None = None


_HERE = _Here()


def tell_key(key: Callable[[], int] | None) -> Callable[[], int] | None:
    """From now on in this thread, ``key()`` is the key of the sample or batch that is made.

    Returns:
        What was told before; a loader may be used within a sample of another.
    """
    before, _HERE.key = _HERE.key, key
    return before


def sample_seed() -> int:
    """A seed for the sample that is being made, from (base seed, epoch, position) alone.

    The same with processes, threads and no workers at all, in any order and after a resume:
    ``numpy.random.default_rng(hatchway.sample_seed())`` gives a sample its own generator. In
    ``collate_fn`` it is the batch's, from the position of its first sample. 64 bits; what
    ``torch.initial_seed()`` returns there with ``seeding="position"``, but for threads, whose
    global generators are everybody's.

    Raises:
        RuntimeError: Where no sample is being made.
    """
    key = _HERE.key
    if key is None:
        raise RuntimeError(
            "hatchway.sample_seed() is for __getitem__ and collate_fn of a hatchway.DataLoader; "
            "no sample is being made in this thread"
        )
    return key()
