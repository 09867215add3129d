"""Units as people read them."""

from __future__ import annotations

import pytest

from hatchway.base.units import format_bytes

GIB = 1 << 30


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (640, "640 B"),
        (1023, "1023 B"),
        (64 << 20, "64.0 MiB"),
        (3 << 29, "1.5 GiB"),
        (500 * GIB, "500.0 GiB"),
        (1 << 41, "2.0 TiB"),
    ],
)
def test_bytes_are_written_for_people(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text
