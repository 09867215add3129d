"""What a user may name to be tracked, and what not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hatchway.memory import DirtyTracker


@pytest.mark.parametrize(
    ("regions", "error", "says"),
    [
        ([], ValueError, "regions is empty"),
        ("text", TypeError, "regions is a str"),
        ([3], TypeError, r"regions\[0\] is a int"),
        (np.zeros(0), ValueError, "is empty"),
        (torch.zeros(0), ValueError, "is empty"),
        (torch.eye(3).to_sparse(), ValueError, "is torch.sparse_coo; only dense"),
        (torch.zeros(3, device="meta"), ValueError, "lies on meta"),
        (np.array([object()]), ValueError, "Python objects"),
        (b"bytes", ValueError, "cannot be written to"),
        ((0, 10), ValueError, "must be above 0"),
        ((4096, -1), ValueError, "must be above 0"),
    ],
)
def test_what_cannot_be_tracked_is_named(regions: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        DirtyTracker(regions)


def test_two_tensors_are_no_address_and_length() -> None:
    for pair in (torch.tensor(5), torch.tensor(9)), (np.zeros(3), np.zeros(4)):
        assert [region.owner for region in DirtyTracker(pair).regions] == list(pair)
