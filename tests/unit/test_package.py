"""The package's front door: public names, found late, and the error tree."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

import pytest

import hatchway
from hatchway.base import HatchwayError, LoaderError

ROOT = Path(__file__).resolve().parents[2]


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="'hatchway' has no attribute 'Nothing'"):
        _ = hatchway.Nothing  # type: ignore[attr-defined]


def test_the_public_names_are_listed_before_they_are_imported() -> None:
    assert {"DataLoader", "LoaderStatistics", "__version__"} <= set(dir(hatchway))


def test_the_loader_comes_from_its_part() -> None:
    from hatchway.loader import DataLoader

    assert hatchway.DataLoader is DataLoader


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(hatchway, name) is not None for name in hatchway.__all__)


def test_each_part_has_a_branch_under_one_root() -> None:
    assert issubclass(LoaderError, HatchwayError)
    assert not issubclass(HatchwayError, (ValueError, TypeError))


def test_every_dependency_is_pinned_for_the_tools_that_we_run() -> None:
    declared = requires("hatchway") or []
    wanted = {re.split(r"[<>=!~; ]", requirement)[0] for requirement in declared}
    assert {"torch", "numpy", "pytest"} <= wanted
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^([a-z0-9-]+)==", constraints, re.MULTILINE))
    assert wanted <= pinned
