"""Through nbdkit a chain holds the bytes that QEMU reads, and takes those that it writes."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import hatchway
from hatchway.disk import Chain
from tests.real import nbd, qemu

MIB = 1024 * 1024


def missing() -> str:
    """Why nbdkit cannot run the plugin here, if so."""
    if shutil.which("nbdkit") is None:
        return "no nbdkit here (`make setup-system` installs it)"
    said = subprocess.run(
        ["nbdkit", "--dump-plugin", "python"], capture_output=True, text=True, check=False
    )
    versions = dict(line.split("=", 1) for line in said.stdout.splitlines() if "=" in line)
    theirs = versions.get("python_version")
    if theirs is None:
        return "nbdkit has no plugin for Python here (`make setup-system` installs it)"
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    return "" if theirs.startswith(f"{ours}.") else f"nbdkit has Python {theirs}, this is {ours}"


REASON = missing()
pytestmark = [
    pytest.mark.real,
    qemu.needs_qemu,
    nbd.needs_libnbd,
    pytest.mark.skipif(bool(REASON), reason=REASON),
]


class Nbdkit:
    """Runs commands of the shell beside nbdkit, which serves at ``$uri``."""

    def __init__(self, directory: Path) -> None:
        # nbdkit's interpreter does not know the environment that the tests run in.
        site_packages = sysconfig.get_path("purelib")
        customized = f"import site\nsite.addsitedir({site_packages!r})\n"
        (directory / "sitecustomize.py").write_text(customized)
        printed = subprocess.run(
            [sys.executable, "-m", "hatchway.disk.nbdkit_plugin"], capture_output=True, check=True
        )
        self.plugin = printed.stdout.decode().rstrip("\n")
        self._environment = {**os.environ, "PYTHONPATH": str(directory)}

    def run(self, command: str, *parameters: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nbdkit", "--unix", "-", "python", self.plugin, *parameters, "--run", command],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    def output(self, command: str, *parameters: str) -> str:
        done = self.run(command, *parameters)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def nbdkit(tmp_path: Path) -> Nbdkit:
    directory = tmp_path / "python"
    directory.mkdir()
    return Nbdkit(directory)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """An overlay with subclusters over compressed clusters, over a raw file of an odd size."""
    raw = qemu.raw(tmp_path / "base.raw", random.Random(5).randbytes(3 * MIB - 100))
    middle = qemu.create(tmp_path / "middle.qcow2", 8 * MIB, raw)
    qemu.io(middle, ["write -P 1 1M 1M", "write -c -P 3 5M 64k", "write -z 6M 1M"])
    qemu.img("snapshot", "-c", "before", middle)
    path = qemu.create(tmp_path / "top.qcow2", None, middle, extended_l2="on")
    qemu.io(path, ["write -P 2 1M 100k", "write -z 2M 64k"])
    return path


def test_qemu_finds_what_is_in_the_chain(nbdkit: Nbdkit, top: Path) -> None:
    compared = f'qemu-img compare -f raw -F qcow2 "$uri" {top}'
    assert nbdkit.output(compared, f"image={top}") == "Images are identical.\n"


def test_it_finds_the_installed_package_that_it_is_of(top: Path, tmp_path: Path) -> None:
    site_packages = Path(sysconfig.get_path("purelib"))
    installed = tmp_path / "site-packages"
    # Sources and compiled kernels lie apart while Hatchway is developed.
    shutil.copytree(Path(hatchway.__file__).parent, installed / "hatchway")
    shutil.copytree(site_packages / "hatchway", installed / "hatchway", dirs_exist_ok=True)
    for found in site_packages.iterdir():
        if found.name.startswith(("numpy", "zstandard")):
            (installed / found.name).symlink_to(found)
    plugin = installed / "hatchway" / "disk" / "nbdkit_plugin.py"
    command = f'qemu-img compare -f raw -F qcow2 "$uri" {top}'
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        ["nbdkit", "--unix", "-", "python", plugin, f"image={top}", "--run", command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "Images are identical.\n"), done.stderr


def test_nbdcopy_takes_all_of_it_over_several_connections(
    nbdkit: Nbdkit, top: Path, tmp_path: Path
) -> None:
    target = tmp_path / "copy.raw"
    nbdkit.output(f'nbdcopy --connections=4 "$uri" {target}', f"image={top}")
    assert target.read_bytes() == qemu.contents(top)


def test_a_client_is_told_what_it_may_do_and_what_is_empty(nbdkit: Nbdkit, top: Path) -> None:
    (export,) = json.loads(nbdkit.output('nbdinfo --json "$uri"', f"image={top}"))["exports"]
    assert export["export-size"] == 8 * MIB
    assert export["description"] == str(top)
    assert (export["is_read_only"], export["can_multi_conn"]) == (True, True)
    assert export["can_cache"]
    assert export["block_size_preferred"] == 4096
    found = json.loads(nbdkit.output('nbdinfo --json --map "$uri"', f"image={top}"))
    with Chain(top) as chain:
        empty = [one.kind in ("hole", "zero") for one in chain.map() for _ in range(one.length)]
    said = [one["type"] == 3 for one in found for _ in range(one["length"])]
    assert said == empty


def test_an_internal_snapshot(nbdkit: Nbdkit, top: Path) -> None:
    middle = top.with_name("middle.qcow2")
    expected = qemu.contents(middle, "-l", "before")
    qemu.io(middle, ["write -P 9 0 8M"])
    target = top.with_name("copy.raw")
    nbdkit.output(f'nbdcopy "$uri" {target}', f"image={middle}", "snapshot=before")
    assert target.read_bytes() == expected


def test_what_is_written_through_it_is_in_the_image(nbdkit: Nbdkit, top: Path) -> None:
    expected = bytearray(qemu.contents(top))
    commands = ["write -P 7 100k 3M", "write -f -P 8 3M 512", "write -z 5M 32k"]
    commands += ["discard 7M 64k", "flush"]
    typed = " ".join(f"-c '{command}'" for command in commands)
    said = nbdkit.output(f'qemu-io -f raw {typed} "$uri"', f"image={top}", "writable=true")
    assert "failed" not in said
    expected[100 * 1024 : 100 * 1024 + 3 * MIB] = bytes([7]) * (3 * MIB)
    expected[3 * MIB : 3 * MIB + 512] = bytes([8]) * 512
    expected[5 * MIB : 5 * MIB + 32 * 1024] = bytes(32 * 1024)
    expected[7 * MIB : 7 * MIB + 65536] = bytes(65536)
    assert qemu.contents(top) == expected
    qemu.check(top)


def test_a_base_elsewhere_has_to_be_allowed(nbdkit: Nbdkit, tmp_path: Path) -> None:
    (tmp_path / "bases").mkdir()
    base = qemu.create(tmp_path / "bases" / "base.qcow2", MIB)
    directory = tmp_path / "tops"
    directory.mkdir()
    path = directory / "top.qcow2"
    qemu.img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path)
    refused = nbdkit.run("true", f"image={path}")
    assert refused.returncode != 0
    assert "lies outside" in refused.stderr
    for allowed in ("true", str(base.parent)):
        assert nbdkit.output("echo served", f"image={path}", f"allow_backing={allowed}")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ([], "image=PATH must say what to serve"),
        (["image=x.qcow2", "images=y"], "there is no parameter 'images'; there are image, "),
        (["image=x.qcow2", "lock=perhaps"], "must be true or false, not 'perhaps'"),
        (["image=/nowhere/x.qcow2"], "/nowhere/x.qcow2 cannot be opened: No such file"),
    ],
)
def test_parameters_that_make_no_sense_are_named(
    nbdkit: Nbdkit, parameters: list[str], said: str
) -> None:
    done = nbdkit.run("true", *parameters)
    assert done.returncode != 0
    assert said in done.stderr


def test_a_damaged_region_is_an_error_and_others_are_read(nbdkit: Nbdkit, tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", MIB, cluster_size=512)
    qemu.io(path, ["write -P 1 0 1M"])
    with Chain(path) as chain:
        l1_offset, _ = chain.images[0].l1_at
    with path.open("r+b") as file:
        file.seek(l1_offset)
        file.write((1 << 40).to_bytes(8, "big"))
    command = "qemu-io -r -f raw -c 'read 0 512' -c 'read -P 1 512k 512' \"$uri\""
    done = nbdkit.run(command, f"image={path}")
    assert "read failed: Input/output error" in done.stdout
    assert "read 512/512 bytes at offset 524288" in done.stdout
    assert "points to 0x10000000000, past the end of the file" in done.stderr
