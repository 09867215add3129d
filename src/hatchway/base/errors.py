"""The root of Hatchway's errors, and one branch a part."""

from __future__ import annotations


class HatchwayError(Exception):
    """Any error that Hatchway raises on purpose, apart from wrong arguments.

    A message says what went wrong, which value, where, and the way out.
    Wrong arguments raise ``ValueError`` or ``TypeError`` instead.
    """


class LoaderError(HatchwayError):
    """Any error of ``hatchway.loader``."""


class DiskError(HatchwayError):
    """Any error of ``hatchway.disk``."""


class MemoryTrackingError(HatchwayError):
    """Any error of ``hatchway.memory``."""


class CheckpointError(HatchwayError):
    """Any error of ``hatchway.checkpoint``."""
