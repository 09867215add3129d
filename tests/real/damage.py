"""Looking into qcow2 files, and damaging them, by hand."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from hatchway.disk import Report, check
from tests.real import qemu

OFFSET = 0x00FFFFFFFFFFFE00
COPIED = 1 << 63


class Verdict(NamedTuple):
    """What ``qemu-img check`` says; ``said`` is empty where it cannot check."""

    status: int
    said: dict[str, Any]


def verdict_of_qemu(path: Path) -> Verdict:
    done = subprocess.run(
        ["qemu-img", "check", "-f", "qcow2", "--output=json", path],
        capture_output=True,
        timeout=50,
        check=False,
    )
    text = done.stdout.decode()
    return Verdict(done.returncode, json.loads(text) if text.strip() else {})


def assert_agrees(report: Report) -> None:
    """The same leaks and corruptions, and the same of what is counted of a sound file."""
    status, said = verdict_of_qemu(report.path)
    assert said["check-errors"] == 0
    assert (report.leaks, report.corruptions) == (said.get("leaks", 0), said.get("corruptions", 0))
    assert status == (2 if report.corruptions else 3 if report.leaks else 0)
    assert report.total_clusters == said["total-clusters"]
    assert report.allocated_clusters == said.get("allocated-clusters", 0)
    assert report.compressed_clusters == said.get("compressed-clusters", 0)
    assert report.fragmented_clusters == said.get("fragmented-clusters", 0)
    assert report.image_end_offset == said["image-end-offset"]
    assert len(report.findings) == min(report.leaks + report.corruptions, 100)


def assert_repaired(path: Path, kind: str = "all") -> Report:
    """What a repair leaves is clean to QEMU, and holds the same bytes."""
    before = qemu.contents(path)
    report = check(path, repair=kind)  # type: ignore[arg-type]
    assert report.is_clean, report
    assert_agrees(report)
    assert qemu.contents(path) == before
    return report


class Patch:
    """A qcow2 file whose numbers can be read and changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        header = self.read(0, 104)
        (bits,) = struct.unpack_from(">I", header, 20)
        self.cluster_size = 1 << bits
        self.l1_size, self.l1_offset, self.table_offset = struct.unpack_from(">IQQ", header, 36)
        (version,) = struct.unpack_from(">I", header, 4)
        self.refcount_order = struct.unpack_from(">I", header, 96)[0] if version == 3 else 4
        is_extended = version == 3 and header[79] & 16
        self.entry_bytes = 16 if is_extended else 8

    def read(self, offset: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def write(self, offset: int, content: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(content)

    def word(self, offset: int) -> int:
        return int.from_bytes(self.read(offset, 8), "big")

    def set_word(self, offset: int, value: int) -> None:
        self.write(offset, value.to_bytes(8, "big"))

    def l2_at(self, guest_cluster: int, l1_offset: int | None = None) -> int:
        """Where the L2 entry of a guest cluster lies."""
        table, rank = divmod(guest_cluster, self.cluster_size // self.entry_bytes)
        start = self.l1_offset if l1_offset is None else l1_offset
        return (self.word(start + table * 8) & OFFSET) + rank * self.entry_bytes

    def refcount(self, host_offset: int) -> int:
        at, shift, mask = self._refcount_at(host_offset)
        size = max(1, (1 << self.refcount_order) // 8)
        return int.from_bytes(self.read(at, size), "big") >> shift & mask

    def set_refcount(self, host_offset: int, value: int) -> None:
        at, shift, mask = self._refcount_at(host_offset)
        size = max(1, (1 << self.refcount_order) // 8)
        old = int.from_bytes(self.read(at, size), "big")
        self.write(at, (old & ~(mask << shift) | value << shift).to_bytes(size, "big"))

    def _refcount_at(self, host_offset: int) -> tuple[int, int, int]:
        bits = 1 << self.refcount_order
        cluster = host_offset // self.cluster_size
        block, rank = divmod(cluster, self.cluster_size * 8 // bits)
        at = self.word(self.table_offset + block * 8) & OFFSET
        return at + rank * bits // 8, rank * bits % 8, (1 << bits) - 1
