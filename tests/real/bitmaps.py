"""The bitmaps of an image: as QEMU serves them, and as they lie in the file."""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.real import qemu

IN_USE, AUTO = 1, 2
AUTOCLEAR_AT = 88
_KIND = 0x23852875


class Stored(NamedTuple):
    """A bitmap in a file."""

    at: int  # where its entry of the directory lies
    flags: int
    granularity: int
    bits: bytes

    def is_set(self, offset: int) -> bool:
        granule = offset // self.granularity
        return bool(self.bits[granule // 8] >> granule % 8 & 1)


def add(path: Path, name: str, granularity: int, *options: str) -> None:
    qemu.img("bitmap", "--add", "-g", granularity, *options, path, name)


def dirty(path: Path, *names: str) -> list[list[tuple[int, int]]]:
    """What QEMU calls dirty in each bitmap: half-open ranges of the disk."""
    address, noted = path.with_suffix(".nbd"), path.with_suffix(".pid")
    served = [part for name in names for part in ("-B", name)]
    command = ["qemu-nbd", "--fork", "--read-only", "--persistent", "-f", "qcow2", *served]
    command += [f"--socket={address}", f"--pid-file={noted}", str(path)]
    subprocess.run(command, check=True, timeout=50)
    handle = os.pidfd_open(int(noted.read_text()))
    try:
        return [_dirty(address, name) for name in names]
    finally:
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        assert select.select([handle], [], [], 20)[0]
        os.close(handle)


def _dirty(address: Path, name: str) -> list[tuple[int, int]]:
    command = ["nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}"]
    done = subprocess.run(
        [*command, f"nbd+unix:///?socket={address}"], check=True, capture_output=True, timeout=50
    )
    found: list[tuple[int, int]] = []
    for one in json.loads(done.stdout):
        if one["type"]:
            start, end = one["offset"], one["offset"] + one["length"]
            if found and found[-1][1] == start:
                start = found.pop()[0]
            found.append((start, end))
    return found


def flags(path: Path) -> dict[str, list[str]]:
    """The flags of each bitmap, as QEMU names them."""
    said = json.loads(qemu.img("info", "--output=json", path))
    listed = said["format-specific"]["data"].get("bitmaps", [])
    return {one["name"]: sorted(one["flags"]) for one in listed}


def stored(image: bytes) -> dict[str, Stored]:
    """What lies in a file; nothing if its header says that it does not hold."""
    if not int.from_bytes(image[AUTOCLEAR_AT:][:8], "big") & 1:
        return {}
    cluster_size = 1 << int.from_bytes(image[20:24], "big")
    at = int.from_bytes(image[100:104], "big")
    while (kind := int.from_bytes(image[at : at + 4], "big")) != _KIND:
        assert kind, "no bitmaps"
        at += 8 + (int.from_bytes(image[at + 4 : at + 8], "big") + 7 & ~7)
    number, _, at = struct.unpack_from(">I4xQQ", image, at + 8)
    found = {}
    for _ in range(number):
        table, size, said, _, bits, name_bytes, extra = struct.unpack_from(">QIIBBHI", image, at)
        assert not extra
        parts = []
        for entry in struct.unpack_from(f">{size}Q", image, table):
            part = image[entry : entry + cluster_size] if entry > 1 else b""
            parts.append(part.ljust(cluster_size, b"\xff" if entry == 1 else b"\0"))
        name = image[at + 24 : at + 24 + name_bytes].decode()
        found[name] = Stored(at, said, 1 << bits, b"".join(parts))
        at += 24 + name_bytes + 7 & ~7
    return found
