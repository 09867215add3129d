"""Each layer of a chain is a version of the records in it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from hatchway import DataLoader
from hatchway.disk import Chain, RawFile, Records, RecordsError, append_records, write_records
from tests.real import qemu

pytestmark = [pytest.mark.real, qemu.needs_qemu]

MIB = 1024 * 1024


class ByQemu:
    """The disk of an image, as qemu-io writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_at(self, offset: int, size: int) -> bytes:
        with Chain(self.path) as chain:
            return chain.read_at(offset, size)

    def write_at(self, offset: int, data: bytes) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            qemu.io(self.path, [f"write -s {file.name} {offset} {len(data)}"])

    def flush(self) -> None:
        pass


@pytest.fixture
def versions(tmp_path: Path) -> list[Path]:
    """Three layers: 1,000 records, then 10 more in each."""
    with RawFile(tmp_path / "0.raw") as file:
        write_records(file, [b"0:%d" % number for number in range(1000)])
    paths = [tmp_path / "0.qcow2"]
    qemu.img("convert", "-f", "raw", "-O", "qcow2", tmp_path / "0.raw", paths[0])
    for layer in (1, 2):
        paths.append(qemu.create(tmp_path / f"{layer}.qcow2", 64 * MIB, paths[-1]))
        assert append_records(ByQemu(paths[-1]), [b"%d:%d" % (layer, n) for n in range(10)])
    return paths


def expected_of(layer: int) -> list[bytes]:
    later = [b"%d:%d" % (number, n) for number in range(1, layer + 1) for n in range(10)]
    return [b"0:%d" % number for number in range(1000)] + later


def test_each_layer_holds_its_version(versions: list[Path]) -> None:
    for layer, path in enumerate(versions):
        with Records(path) as records:
            assert list(records) == expected_of(layer)


def test_a_layer_takes_what_was_appended(versions: list[Path]) -> None:
    for path in versions[1:]:
        with Chain(path) as chain:
            own = sum(extent.length for extent in chain.map() if extent.path == path)
        assert own == 2 * 64 * 1024  # a cluster of header and places, one of records


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_the_records_of_a_chain(versions: list[Path], context: str) -> None:
    with Records(versions[2]) as records:
        loader = DataLoader(
            records,
            batch_size=64,
            shuffle=True,
            num_workers=2,
            collate_fn=list,
            multiprocessing_context=context,
        )
        assert sorted(record for batch in loader for record in batch) == sorted(expected_of(2))


def test_an_image_without_records_is_refused(tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", MIB)
    with pytest.raises(RecordsError, match=r"the disk of .*one.qcow2 holds no records"):
        Records(path)
