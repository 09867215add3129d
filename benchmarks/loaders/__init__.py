"""The loaders that are compared, by name, each with the settings its documentation advises."""

from benchmarks.loaders.known import DEFAULT_LOADERS, LOADERS, TITLES, build_loader, without_missing
from benchmarks.loaders.request import Request, shuffled

__all__ = [
    "DEFAULT_LOADERS",
    "LOADERS",
    "TITLES",
    "Request",
    "build_loader",
    "shuffled",
    "without_missing",
]
