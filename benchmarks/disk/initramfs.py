"""What a guest boots from: Debian's kernel, and an archive of programs that it unpacks to memory.

Both come from packages that ``make setup-vm`` unpacked into ``.cache/vm/root``. The archive holds
busybox, db_bench and e2fsprogs with their libraries, the modules that the kernel needs for its
disk, and the script that the guest is to run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.errors import BenchmarkError

ROOT = Path(__file__).parents[2] / ".cache" / "vm" / "root"
_TOOLS = ("qemu-system-x86_64", "qemu-img", "qemu-io", "qemu-nbd")
_PROGRAMS = ("bin/busybox", "bin/db_bench", "sbin/e2fsck", "sbin/mke2fs")
_MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")
_DIRECTORIES = ("bin", "dev", "disk", "lib", "lib64", "modules", "proc", "sbin", "sys", "tmp")
_DIRECTORY, _FILE, _DEVICE = 0o040755, 0o100755, 0o020600
_CONSOLE = 5, 1
_SHOWN_CHARACTERS = 1000
# The script runs in a shell of its own: if that ends early, this one still says how.
_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
say() {{ echo "@ $*"; }}
for module in {modules}; do insmod /modules/$module; done
( set -e; . /script )
say ended $?
poweroff -f
"""


def missing(root: Path = ROOT) -> str | None:
    """Say in a line what a guest needs and is not here; None if nothing is missing."""
    lacking = [tool for tool in _TOOLS if shutil.which(tool) is None]
    lacking += [name for name in _PROGRAMS if not (root / name).exists()]
    lacking += [] if _kernels(root) else ["a kernel"]
    if not lacking:
        return None
    return f"no {', '.join(lacking)} here (`make setup-system setup-vm` installs them)"


def kernel(root: Path = ROOT) -> Path:
    """The kernel to boot."""
    return _kernels(root)[-1]


def run_packaged(program: str, *arguments: object, root: Path = ROOT) -> None:
    """Run one of the guest's programs on this host, with the guest's libraries.

    Raises:
        BenchmarkError: If it fails.
    """
    (libraries,) = (root / "lib").glob("*-linux-gnu")
    (loader,) = libraries.glob("ld-linux-*")
    done = subprocess.run(
        [loader, "--library-path", libraries, root / program, *map(str, arguments)],
        env={"MKE2FS_CONFIG": str(root / "etc/mke2fs.conf")},
        check=False,
        capture_output=True,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise BenchmarkError(
            f"{program} exited with {done.returncode}: {said[-_SHOWN_CHARACTERS:]}"
        )


def write_initramfs(target: Path, script: str, root: Path = ROOT) -> None:
    """Write the archive, whose init runs ``script`` in a shell and powers the guest off.

    The script may ``say`` a line that the host is to see. It ends at the first command that
    fails.
    """
    modules = list(_modules(root))
    with target.open("wb") as archive:
        for name in _DIRECTORIES:
            archive.write(_entry(name, _DIRECTORY))
        archive.write(_entry("dev/console", _DEVICE, device=_CONSOLE))
        for name in _PROGRAMS:
            archive.write(_entry(name, _FILE, (root / name).read_bytes()))
        for library in _libraries(root):
            archive.write(_entry(f"lib/{library.name}", _FILE, library.read_bytes()))
        (loader,) = (root / "lib").glob("*-linux-gnu/ld-linux-*")
        archive.write(_entry(f"lib64/{loader.name}", _FILE, loader.read_bytes()))
        for module in modules:
            archive.write(_entry(f"modules/{module.name}", _FILE, module.read_bytes()))
        init = _INIT.format(modules=" ".join(module.name for module in modules))
        archive.write(_entry("init", _FILE, init.encode()))
        archive.write(_entry("script", _FILE, script.encode()))
        archive.write(_entry("TRAILER!!!", 0))


def _kernels(root: Path) -> list[Path]:
    return sorted((root / "boot").glob("vmlinuz-*"))


def _libraries(root: Path) -> Iterator[Path]:
    """Each library under the name that programs ask for, which is a link's if there is one."""
    found = sorted((root / "lib").glob("*-linux-gnu/*.so*"))
    targets = {path.resolve().name for path in found if path.is_symlink()}
    yield from (path for path in found if path.name not in targets or path.is_symlink())


def _modules(root: Path) -> Iterator[Path]:
    """The modules in the order in which they can be loaded; what is built in has none."""
    (directory,) = (root / "lib/modules").iterdir()
    needed: dict[str, list[str]] = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        path, _, depends = line.partition(":")
        needed[Path(path).name.partition(".")[0]] = [path, *depends.split()]
    # Each line has what a module depends on with the deepest last.
    order = [path for name in _MODULES for path in reversed(needed.get(name, []))]
    for path in dict.fromkeys(order):
        yield directory / path


def _entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """One member of a cpio archive in the format that the kernel reads ("newc")."""
    raw = name.encode() + b"\0"
    inode = uid = gid = time = checksum = 0
    fields = (inode, mode, uid, gid, 1, time, len(data), 0, 0, *device, len(raw), checksum)
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + raw
    return _padded(header) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


if __name__ == "__main__":
    lacking = missing()
    if lacking:
        sys.exit(f"vm-test: {lacking}")
