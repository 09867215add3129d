"""Units as people read them."""

from __future__ import annotations

import pytest

from hatchway.base.units import format_bytes, parse_bytes

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


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64k", 65536),
        ("1 MiB", 1 << 20),
        ("10G", 10 * GIB),
        ("2TB", 1 << 41),
    ],
)
def test_people_write_bytes(text: str, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "G", "-1G", "1.5G", "1X", "1GG", "\u0661"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a size must be a whole number"):
        parse_bytes(text)
