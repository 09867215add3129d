"""The examples run as they are, and the README shows what they hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_readmes_example_runs_and_prints_what_both_loaders_waited() -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "examples" / "skewed.py"],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    torch_line, hatchway_line, displaced = ran.stdout.splitlines()
    assert torch_line.startswith("torch    waited ")
    assert hatchway_line.startswith("hatchway waited ")
    assert displaced.endswith("positions at most")
    assert not ran.stderr


def test_the_readmes_python_is_valid() -> None:
    readme = (ROOT / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    compile(code, "README.md", "exec")
    assert len(code.strip().splitlines()) <= 15
