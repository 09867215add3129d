"""What is imported when it is first used: much of it never is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """A module's ``__getattr__`` that imports public names on first use.

    Args:
        package: The module's ``__name__``.
        modules: For each name the module that it is imported from.
    """

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(import_module(modules[name]), name)
        setattr(import_module(package), name, value)
        return value

    return get


class LazyModule(ModuleType):
    """A module that is imported when the first of its names is used."""

    def __getattr__(self, name: str) -> object:
        value: object = getattr(import_module(self.__name__), name)
        setattr(self, name, value)
        return value
