"""The only types that two parts may share: errors, units, protocols. No logic."""

from hatchway.base.errors import HatchwayError, LoaderError

__all__ = ["HatchwayError", "LoaderError"]
