"""A guest's file system and database are whole on a chain that Hatchway serves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.disk import initramfs
from benchmarks.disk.chains import make_holding
from benchmarks.disk.guests import Guest, export, image
from benchmarks.disk.servers import served
from benchmarks.disk.vm import FSCK, MOUNT, SUMS, make_database, reading, reads_per_s
from tests.real import qemu

LACKING = initramfs.missing()
pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(120)]
needs_guests = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))

MIB = 64
LENGTH = 30
NEW_KEYS = 2000
# RocksDB asks for the room of whole buffers and tables at once.
NEW_DATABASE = (
    f"--db=/disk/new --num={NEW_KEYS} --value_size=1000 --compression_type=none"
    " --write_buffer_size=1048576 --target_file_size_base=1048576"
)
# Files that are written and synced one after the other, beside writes that nobody waits for.
WRITES = """
mount -t ext4 /dev/vda /disk
noise() { dd if=/dev/urandom of=/disk/noise bs=64k count=32 2>/dev/null; rm /disk/noise; }
( while :; do noise; done ) &
number=0
while :; do
    number=$((number + 1))
    seq $number $((number + 3000)) | dd of=/disk/$number conv=fsync 2>/dev/null
    say synced $number
done
"""
# A journal is replayed when the file system is mounted.
LOOK_AFTER_THEM = """
mount -t ext4 /dev/vda /disk
for number in $(seq {count}); do
    seq $number $((number + 3000)) | cmp - /disk/$number
done
umount /disk
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_database(tmp_path_factory.mktemp("base"), MIB)


@pytest.fixture(scope="module")
def chain(base: Path) -> Path:
    return make_holding(base.parent / "chain", LENGTH, base)


@pytest.fixture
def overlay(chain: Path, request: pytest.FixtureRequest) -> Path:
    return qemu.create(chain.with_name(f"{request.node.name}.qcow2"), None, chain)


@needs_guests
def test_a_guest_finds_its_files_whole(base: Path, chain: Path, tmp_path: Path) -> None:
    script = f"{FSCK}\n{MOUNT}\n{SUMS}\n{reading(MIB, 1)}"
    with served("hatchway", chain) as server:
        disk = export(server.socket_path)
        with Guest(disk, script, tmp_path) as guest:
            assert reads_per_s(guest.hear("read")) > 0
            console = guest.finish()
    files = [path for path in (base.parent / "files/db").iterdir() if path.stat().st_size]
    assert len(files) > 2
    for path in files:
        done = subprocess.run(["md5sum", path.name], cwd=path.parent, capture_output=True)
        assert done.stdout.decode().strip() in console


@needs_guests
def test_what_a_guest_wrote_is_what_qemu_reads(overlay: Path, tmp_path: Path) -> None:
    script = f"""
mount -t ext4 /dev/vda /disk
db_bench {NEW_DATABASE} --benchmarks=fillseq,flush 2>&1
umount /disk
{FSCK}
"""
    with (
        served("hatchway", overlay, writable=True) as server,
        Guest(export(server.socket_path, writable=True), script, tmp_path) as guest,
    ):
        guest.finish()
    qemu.check(overlay)
    script = f"""
{FSCK}
{MOUNT}
db_bench {NEW_DATABASE} --use_existing_db --readonly --benchmarks=readseq,readrandom 2>&1
"""
    with Guest(image(overlay), script, tmp_path) as guest:
        assert f"({NEW_KEYS} of {NEW_KEYS} found)" in guest.finish()


@needs_guests
def test_what_a_guest_synced_survives_a_server_that_is_killed(
    overlay: Path, tmp_path: Path
) -> None:
    count = 5
    with (
        served("hatchway", overlay, writable=True) as server,
        Guest(export(server.socket_path, writable=True), WRITES, tmp_path) as guest,
    ):
        while int(guest.hear("synced")) < count:
            pass
        server.process.kill()
        server.process.wait()
    script = LOOK_AFTER_THEM.format(count=count) + FSCK
    with (
        served("hatchway", overlay, writable=True) as server,
        Guest(export(server.socket_path, writable=True), script, tmp_path) as guest,
    ):
        guest.finish()
    found = subprocess.run(["qemu-img", "check", "-q", overlay], check=False).returncode
    leaks_only = 3
    assert found in (0, leaks_only)


@needs_guests
def test_a_guest_that_reads_outlives_its_server(chain: Path, tmp_path: Path) -> None:
    script = f"{MOUNT}\nsay mounted\n{reading(MIB, 5)}"
    with (
        served("hatchway", chain) as server,
        Guest(export(server.socket_path), script, tmp_path) as guest,
    ):
        guest.hear("mounted")
        server.process.kill()
        server.process.wait()
        command = [*server.process.args]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as second:
            try:
                assert reads_per_s(guest.hear("read")) > 0
                guest.finish()
            finally:
                second.terminate()


@needs_guests
def test_nothing_is_left_of_a_guest_that_is_interrupted(chain: Path, tmp_path: Path) -> None:
    script = f"{MOUNT}\nsay mounted\nsleep 60"

    def be_interrupted() -> None:
        with (
            served("hatchway", chain) as server,
            Guest(export(server.socket_path), script, tmp_path) as guest,
        ):
            left.append(server.socket_path)
            guest.hear("mounted")
            signal.raise_signal(signal.SIGINT)

    left: list[Path] = []
    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert not left[0].parent.exists()


def test_it_says_in_a_line_what_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.disk.vm"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PATH": ""},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("vm: no qemu-system-x86_64, ")
    assert "make setup-system setup-vm" in line
