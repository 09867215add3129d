"""A check of a file that was made to be hard to check ends soon, in bounded memory."""

from __future__ import annotations

import os
import resource
import struct
from pathlib import Path

import pytest

from hatchway.cli import main
from hatchway.disk import ImageError, check
from hatchway.disk.checking.survey import Survey
from hatchway.disk.locks import lock_to_write

pytestmark = [pytest.mark.fault]

CLUSTER = 65536
GIB = 1 << 30


class Image:
    """A version 3 file, made of clusters of 64 KiB as they are asked for."""

    def __init__(self, path: Path, num_snapshots: int = 0, l1_size: int = 1) -> None:
        self.path = path
        self.num_clusters = 1
        self.l1 = self.clusters(-(-l1_size * 8 // CLUSTER))
        self.table = self.clusters(1)
        self.snapshots = self.clusters(-(-num_snapshots * 56 // CLUSTER))
        with path.open("wb") as file:
            fields = (b"QFI\xfb", 3, 0, 0, 16, l1_size << 29, 0, l1_size, self.l1)
            file.write(
                struct.pack(">4sIQIIQIIQ", *fields)
                + struct.pack(">QIIQ", self.table, 1, num_snapshots, self.snapshots)
                + struct.pack(">QQQII", 0, 0, 0, 4, 104)
            )

    def clusters(self, count: int) -> int:
        """The offset of ``count`` clusters that nothing uses yet."""
        offset = self.num_clusters * CLUSTER
        self.num_clusters += count
        return offset

    def write(self, offset: int, content: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(content)

    def end(self, num_bytes: int | None = None) -> None:
        os.truncate(self.path, num_bytes or self.num_clusters * CLUSTER)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.timeout(30)
def test_an_l2_table_that_is_named_by_millions_of_entries_is_read_once(tmp_path: Path) -> None:
    image = Image(tmp_path / "one.qcow2", l1_size=1 << 20)
    l2, data = image.clusters(1), image.clusters(1)
    image.write(image.l1, struct.pack(">Q", l2) * (1 << 20))
    image.write(l2, struct.pack(">Q", data) * 8192)
    image.end()
    report = check(image.path, most_findings=1000)
    low = {one.host_offset for one in report.findings if one.kind == "refcount too low"}
    assert {l2, data} <= low


@pytest.mark.timeout(60)
def test_thousands_of_snapshots_that_share_one_table(tmp_path: Path) -> None:
    image = Image(tmp_path / "one.qcow2", num_snapshots=5000)
    l1, l2, data = image.clusters(512), image.clusters(1), image.clusters(1)
    entry = struct.pack(">QIHHIIQII", l1, 1 << 22, 0, 0, 0, 0, 0, 0, 16) + bytes(16)
    image.write(image.snapshots, entry * 5000)
    image.write(l1, struct.pack(">Q", l2) * (1 << 22))
    image.write(l2, struct.pack(">Q", data) * 8192)
    image.end()
    report = check(image.path, most_findings=1000)
    assert {l2, data} <= {one.host_offset for one in report.findings}


@pytest.mark.timeout(60)
def test_a_file_that_is_said_to_be_huge(tmp_path: Path) -> None:
    image = Image(tmp_path / "one.qcow2")
    try:
        image.end(8 << 40)
    except OSError:
        pytest.skip("no file of 8 TiB can be here, even of holes")
    before = peak_bytes()
    assert check(image.path).corruptions == 3  # header and tables: their refcounts are 0
    assert peak_bytes() - before < GIB // 2
    with pytest.raises(ImageError, match=r"takes 384.0 MiB, and 100.0 MiB are allowed"):
        check(image.path, most_bytes=100 << 20)


def test_many_findings_take_no_memory(tmp_path: Path) -> None:
    image = Image(tmp_path / "one.qcow2", l1_size=64)
    tables = [image.clusters(1) for _ in range(64)]
    image.write(image.l1, struct.pack(">64Q", *tables))
    for table in tables:
        image.write(table, struct.pack(">Q", 1 << 50 | 1 << 60 | 512) * 8192)
    image.end()
    before = peak_bytes()
    report = check(image.path)
    assert report.corruptions > 64 * 8192 * 2
    assert len(report.findings) == 100
    assert peak_bytes() - before < 100 << 20


def test_an_interrupt_ends_a_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = Image(tmp_path / "one.qcow2")
    image.write(image.l1, struct.pack(">Q", image.clusters(1)))
    image.end()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for repair in (None, "all"):
        with pytest.raises(KeyboardInterrupt):
            check(image.path, repair=repair, progress=interrupt)  # type: ignore[arg-type]
    with image.path.open("r+b") as file:
        lock_to_write(file.fileno(), image.path)  # nobody holds it any more
    monkeypatch.setattr(Survey, "_compare", interrupt)
    assert main(["disk", "check", str(image.path)]) == 130
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "hatchway disk: interrupted\n")
