"""The only types that two parts may share: errors, units, protocols. No logic."""

from hatchway.base.errors import DiskError, HatchwayError, LoaderError

__all__ = ["DiskError", "HatchwayError", "LoaderError"]
