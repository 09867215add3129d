"""What a stream yields is told in a line, and known again by a number."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from hatchway import Deferred
from hatchway.loader.outline import outline

ITEMS = [
    Deferred(len, b"raw", "a/0001.jpg", size=3),
    Deferred(max, b"raw", "a/0001.jpg", size=3),
    ("a", 1),
    ["a", 1],
    {"a": 1},
    "a",
    b"a",
    1,
    1.0,
    True,
    None,
    np.arange(3),
    np.arange(3.0),
    np.zeros((0, 2)),
    np.array("2020-01-01", "datetime64[D]"),
    np.array([object()]),
    torch.arange(3),
    torch.arange(3, dtype=torch.bfloat16),
    torch.zeros(0),
    torch.eye(2).to_sparse(),
    object(),
    "\ud800",
    [[]] * 1000,
]


def test_an_item_is_told_without_its_bulk() -> None:
    item = Deferred(len, bytes(110_000), "a/0001.jpg", np.zeros((3, 4)), label=7)
    assert outline(item)[0] == (
        "Deferred(len, <110000 bytes>, 'a/0001.jpg', <ndarray (3, 4) float64>, 'label', 7)"
    )
    assert all(len(outline(one)[0]) <= 200 for one in (*ITEMS, ["x" * 50] * 50))


def test_different_items_have_different_checksums() -> None:
    assert len({outline(item)[1] for item in ITEMS}) == len(ITEMS)


@pytest.mark.parametrize("large", [bytes, np.array, torch.tensor])
@pytest.mark.parametrize("at", [0, -1])
def test_both_ends_of_what_is_large_count(large: type, at: int) -> None:
    content = bytearray(100_000)
    before = outline(large(list(content)))[1]
    content[at] = 1
    assert outline(large(list(content)))[1] != before


def test_the_checksum_is_the_same_in_another_process() -> None:
    code = (
        "from tests.unit.test_outline import ITEMS, outline\n"
        "print([outline(item)[1] for item in ITEMS])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([outline(item)[1] for item in ITEMS])
