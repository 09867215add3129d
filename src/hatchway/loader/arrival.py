"""Samplers that are fed from elsewhere: what they yield next may still be on its way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from hatchway.loader.shared import wait_readable

T = TypeVar("T")

# Whoever feeds a sampler may end without a sign: look by oneself.
_LONGEST_WAIT_S = 1.0


class NotYet(Exception):  # noqa: N818 -- nothing is wrong
    """What comes next is not there yet.

    Attributes:
        descriptors: One of them becomes readable when it is; none where what is under
            way must be delivered first.
    """

    def __init__(self, *descriptors: int) -> None:
        super().__init__()
        self.descriptors = descriptors


def patient(items: Iterator[T]) -> Iterator[T]:
    """What ``items`` yields, waited for."""
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except NotYet as wait:
            wait_readable(list(wait.descriptors), _LONGEST_WAIT_S)
        else:
            yield item
