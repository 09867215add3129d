"""The examples and the README's session run as they are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.real import qemu

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_prints_what_both_loaders_waited() -> None:
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


def test_the_example_that_is_killed_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "examples" / "resume.py", tmp_path / "state.pt"]
    with subprocess.Popen([*command, "2"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(4):
            assert child.stdout.readline().endswith(" samples\n")
        child.kill()
    ran = subprocess.run([*command, "1"], capture_output=True, text=True, timeout=50, check=True)
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("going on after ")
    assert lines[-1] == "every sample once"
    assert not ran.stderr


def test_the_example_with_checkpoints_goes_on(tmp_path: Path) -> None:
    lines = []
    for num_steps in ("3", "2"):
        command = [sys.executable, ROOT / "examples" / "checkpoints.py", tmp_path, num_steps]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
        assert not ran.stderr
        lines += ran.stdout.splitlines()
    assert lines[3] == "going on after step 2"
    saved = [int(line.split()[2]) for line in lines if line.startswith("step ")]
    assert [line.split(":")[0] for line in lines[4:]] == ["step 3", "step 4"]
    assert max(saved[1], saved[2], saved[4]) * 20 < min(saved[0], saved[3])


def test_the_example_with_shards_decodes_each_image_once() -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "examples" / "shards.py"],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    decoded, slowest, displaced = ran.stdout.splitlines()
    assert decoded == "240 images decoded in 15 batches, each once"
    assert slowest.startswith("the slowest took ")
    assert displaced.endswith("positions at most")
    assert not ran.stderr


@qemu.needs_qemu
def test_the_example_with_records_reads_both_versions() -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "examples" / "records_in_a_chain.py"],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert ran.stdout.splitlines() == [
        "v1.qcow2: 400 samples, 40 of each label",
        "v2.qcow2: 440 samples, 44 of each label",
    ]
    assert not ran.stderr


def test_the_readmes_session_prints_what_the_readme_shows() -> None:
    blocks = (ROOT / "README.md").read_text().split("```")
    at = next(i for i, block in enumerate(blocks) if block.startswith("python\n"))
    code, shown = blocks[at].removeprefix("python\n"), blocks[at + 2].strip()
    assert len(code.strip().splitlines()) == 10
    # Torch advises against 8 workers on a small machine; these wait.
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert without_numbers(ran.stdout) == without_numbers(shown)
    assert not ran.stderr


def without_numbers(text: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "#", text.strip())
