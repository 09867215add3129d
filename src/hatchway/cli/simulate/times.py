"""Recorded sample times: a CSV file with a column ``seconds``, a sample a row."""

from __future__ import annotations

import csv
import math
from pathlib import Path

COLUMN = "seconds"


class TimesError(Exception):
    """A file of times cannot be used; the message says why, where, and the way out."""


def read_times(path: Path) -> list[float]:
    """Read the seconds of each sample, in the order of the dataset's indices.

    Raises:
        TimesError: If the file cannot be read, has no column ``seconds``, or a value
            is no number of seconds from 0 on.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            return _parse(path, csv.reader(lines))
    except OSError as error:
        raise TimesError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TimesError(f"{path} is not a CSV file in UTF-8: {error}") from error


def _parse(path: Path, rows: csv._reader) -> list[float]:  # type: ignore[name-defined]
    header = [name.strip() for name in next(rows, [])]
    if COLUMN not in header:
        raise TimesError(
            f"{path}, line 1: no column {COLUMN!r} in {','.join(header)!r}; begin the file with "
            f"a line {COLUMN!r}, then one number a sample, in the order of the dataset"
        )
    column = header.index(COLUMN)
    times_s = []
    for row in rows:
        if not row:
            continue
        text = row[column].strip() if column < len(row) else ""
        times_s.append(_seconds(path, rows.line_num, text))
    if not times_s:
        raise TimesError(f"{path} holds no samples; write one number of seconds a line")
    return times_s


def _seconds(path: Path, line: int, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise TimesError(
            f"{path}, line {line}: {text!r} is not a number of seconds from 0 on; correct the "
            "line or take it out"
        )
    return seconds
