"""What holds for every test: Hypothesis profiles, no leaks, named skips."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.leaks import belongings, leaked_since

if TYPE_CHECKING:
    from collections.abc import Iterator

# Failures are reproduced from the printed blob, never from fixed examples: no database,
# which a checkout of somebody else's could not write. A noisy machine must not fail a
# property: no deadline.
COMMON: dict[str, Any] = {"print_blob": True, "deadline": None, "database": None}
settings.register_profile("dev", max_examples=50, derandomize=False, **COMMON)
settings.register_profile("ci", max_examples=200, derandomize=True, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Fail a test that leaves a process, shared memory or descriptors behind."""
    before = belongings()
    yield
    leaks = leaked_since(before)
    if leaks:
        pytest.fail("left behind: " + "; ".join(leaks), pytrace=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where torch sees none."""
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if not needing:
        return
    import torch

    if not torch.cuda.is_available():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="no GPU that torch can use"))
