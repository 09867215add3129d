"""PyTorch's own tests of its loader, from Debian's source package, over a loader of choice.

The file is read from the mirror that apt is set up with, and kept in ``.cache``.

    python -m tests.real.torch_suite torch       # what stock torch makes of them
    python -m tests.real.torch_suite hatchway [more of pytest's arguments]
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.real.debian_source import fetched, kept

KEPT = "torch-2.6.0-test_dataloader.py"
# The release in Debian 13; later ones are not in the archive for good.
ARCHIVE = "pool/main/p/pytorch/pytorch_2.6.0+dfsg.orig.tar.xz"
ARCHIVE_SHA256 = "099a9601bc40d67656e75735c44abedb0fbe92d08817852ab7472eebb7e6ddff"
MEMBER = "pytorch-v2.6.0/test/test_dataloader.py"
TIMEOUT_S = 60

IN_PLACE = """
import functools
import hatchway
import torch.utils.data
torch.utils.data.DataLoader = {loader}
"""
# Where a test is about the seeds that torch gives its workers.
TORCH_SEEDS = """type(
    "DataLoader",
    (hatchway.DataLoader,),
    {"__init__": functools.partialmethod(hatchway.DataLoader.__init__, seeding="torch")},
)"""
IN_SCRIPTS = "from torch.utils.data import DataLoader, IterableDataset\n"
NUM_SCRIPTS = 3


@dataclass(frozen=True)
class Outcome:
    """What one test came to: "passed", "failed" or "skipped", and what it said."""

    result: str
    text: str = ""


def source() -> str:
    """The file as PyTorch wrote it.

    Raises:
        NotHere: If no mirror of Debian's archive is set up or can be reached.
    """
    return kept(KEPT, _fetch).read_text(encoding="utf-8")


def _fetch(target: Path) -> None:
    archive = fetched(ARCHIVE, ARCHIVE_SHA256)
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r|xz") as tar:
        for entry in tar:
            if entry.name == MEMBER:
                found = tar.extractfile(entry)
                assert found is not None
                target.write_bytes(found.read())
                return
    raise AssertionError(f"{MEMBER} is not in the archive")


def over_hatchway(text: str, loader: str = "hatchway.DataLoader") -> str:
    """The file with our class in place of torch's, in the scripts that it starts, too."""
    assert text.count(IN_SCRIPTS) == NUM_SCRIPTS, "another version of the file"
    in_place = "from hatchway import DataLoader\nfrom torch.utils.data import IterableDataset\n"
    return IN_PLACE.format(loader=loader) + text.replace(IN_SCRIPTS, in_place)


def run(text: str, folder: Path, *arguments: str) -> dict[str, Outcome]:
    """Run the tests in a process of their own.

    Args:
        text: The file.
        folder: An empty one.
        arguments: More of pytest's.
    """
    (folder / "test_dataloader.py").write_text(text, encoding="utf-8")
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", folder]
    plugins = ["-p", "no:randomly", "-p", "no:cacheprovider", f"--timeout={TIMEOUT_S}"]
    plugins += ["-o", "timeout_method=signal"]
    subprocess.run(
        [*command, *plugins, f"--junitxml={report}", *arguments, folder / "test_dataloader.py"],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        check=False,
    )
    return dict(map(_outcome, ElementTree.parse(report).iter("testcase")))


def _outcome(case: ElementTree.Element) -> tuple[str, Outcome]:
    name = f"{case.attrib['classname'].split('.')[-1]}.{case.attrib['name']}"
    for tag, result in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        child = case.find(tag)
        if child is not None:
            return name, Outcome(result, child.text or child.attrib.get("message", ""))
    return name, Outcome("passed")


def main() -> None:
    """Say what failed, and how many passed."""
    which, *arguments = sys.argv[1:]
    text = source() if which == "torch" else over_hatchway(source())
    with tempfile.TemporaryDirectory() as folder:
        found = run(text, Path(folder), *arguments)
    for name, outcome in found.items():
        if outcome.result == "failed":
            print(name, outcome.text.strip().splitlines()[-1], sep=": ")
    print(dict(Counter(outcome.result for outcome in found.values())))


if __name__ == "__main__":
    main()
