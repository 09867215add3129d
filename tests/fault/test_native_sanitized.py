"""Native code under sanitizers: what fuzzing found, and threads in each other's way."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tools import sanitize

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(600)]


def test_no_sanitizer_has_anything_to_say() -> None:
    for sanitizers in ("address,undefined", "thread"):
        reason = sanitize.missing("c++", sanitizers)
        if reason is not None:
            pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, sanitize.__file__, "replay"],
        capture_output=True,
        check=False,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ran 0 inputs" not in done.stdout
    assert "ran 0 rounds" not in done.stdout
