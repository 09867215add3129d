"""The bytes of a stored index are those that docs/disk.md describes."""

from __future__ import annotations

import os
import struct
import time
import zlib
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from hatchway.disk import Chain
from hatchway.disk.files import Identity
from hatchway.disk.index import LayerRecord, StoredIndex, build, building, digest_of, sidecar_of
from hatchway.disk.index.records import parse_records, records_bytes
from hatchway.disk.index.tree import IndexFile, Tree, depth_for, overlaid
from hatchway.disk.leaves import LEAF_GRANULES
from tests.images import CLUSTER, write_chain

LAYERS: list[dict[int, int]] = [
    {5: 1 << 63 | 7 * CLUSTER, 600: 1},
    {6: 1 << 63 | 9 * CLUSTER, 700: 1 << 62 | 12345},
    {},
]


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr(building, "file_system_time", lambda fd: time.time_ns() + 10**10)
    return write_chain(tmp_path, LAYERS, 2000)


def crc(level: int, rank: int, content: bytes) -> int:
    return zlib.crc32(struct.pack("<QQ", level, rank) + content)


def test_a_reader_that_knows_the_description_finds_a_word(paths: list[Path]) -> None:
    with Chain(paths[-1]) as chain:
        content = build(chain.images[:-1]).path.read_bytes()
        digest = digest_of(chain.images[0])
    slots = [content[at : at + 512] for at in (0, 512)]
    whole = [one for one in slots if struct.unpack("<I", one[508:])[0] == zlib.crc32(one[:508])]
    (slot,) = whole
    magic, version, _, sequence, at, end, fresh = struct.unpack_from("<8sIIQQQQ", slot)
    assert (magic, version, end, fresh) == (b"HATCHIDX", 1, len(content), len(content))
    assert slots[sequence % 2] == slot
    head = struct.unpack_from("<4s4xQQQQQIIIIQQQ8sII", content, at)
    records_length, predecessor, parent, before, root, level, bits, num_layers = head[1:9]
    first, num_leaves, device, inode, name_hash, records_crc, head_crc = head[9:]
    assert (head[0], predecessor, parent, before, first) == (b"cmit", 0, 0, 0, 0)
    assert (level, bits, num_layers, num_leaves) == (1, 9, 2, 2)
    assert name_hash == blake2b(b"1.qcow2", digest_size=8).digest()
    status = paths[1].stat()
    assert (device, inode) == (status.st_dev, status.st_ino)
    records = content[at + 104 : at + 104 + records_length]
    assert records_crc == zlib.crc32(records)
    assert head_crc == crc(at, num_layers, content[at : at + 100])
    node = content[root : root + 4104]
    assert node[4096:] == struct.pack("<II", crc(1, 0, node[:4096]), 0)
    leaves = [one for one in struct.unpack("<512Q", node[:4096]) if one]
    assert len(leaves) == 2
    first_leaf = content[leaves[0] : leaves[0] + 5128]
    assert first_leaf[5120:] == struct.pack("<II", crc(0, 0, first_leaf[:5120]), 0)
    words = struct.unpack("<512Q", first_leaf[:4096])
    layers = struct.unpack("<512H", first_leaf[4096:5120])
    assert {rank: (word, layers[rank]) for rank, word in enumerate(words) if word} == {
        5: (1 << 62 | 7 * CLUSTER, 0),
        6: (1 << 62 | 9 * CLUSTER, 1),
    }
    status = paths[0].stat()
    assert struct.unpack_from("<QQQqq", records) == (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    assert records[48:64] == digest
    assert struct.unpack_from("<QQQQIHBBBxHH2x", records, 64) == (
        *(2000 * CLUSTER, 0, 0, 3 * CLUSTER, 32, 3, 9, 1, 0),
        *(len("0.qcow2"), 0),
    )
    assert records[112 : 112 + 7] == b"0.qcow2"


def test_a_digest_is_of_the_first_bytes_and_the_entries(paths: list[Path]) -> None:
    with Chain(paths[-1]) as chain:
        digests = [digest_of(image) for image in chain.images]
    for path, layer, digest in zip(paths, LAYERS, digests, strict=True):
        expected = blake2b(path.read_bytes()[:4096], digest_size=16)
        for cluster, entry in layer.items():
            expected.update(struct.pack("<Q", cluster) + struct.pack(">Q", entry))
        assert digest == expected.digest()


def record(**changes: object) -> LayerRecord:
    values: dict[str, object] = {
        "identity": Identity(1, 2, 3, 4 * 10**9, 5 * 10**9),
        "indexed_ns": 10**10,
        "digest": bytes(16),
        "size": 10,
        "incompatible": 1,
        "compatible": 2,
        "l1_offset": 3,
        "l1_size": 4,
        "version": 3,
        "cluster_bits": 16,
        "format": "qcow2",
        "compression": "zstd",
        "name": "one.qcow2",
        "data_name": None,
    }
    return LayerRecord(**{**values, **changes})


def test_records_are_read_as_they_were_written() -> None:
    strange = os.fsdecode(b"\xff\xfe \n")
    records = [
        record(),
        record(name=strange, data_name="/data", format="raw"),
        record(identity=Identity(2**64 - 1, 2**64 - 1, 0, -5, -(2**63)), digest=b"d" * 16),
    ]
    raw = records_bytes(records)
    assert parse_records(raw, 3) == records
    for wrong in (raw[:-1], raw + b"\0", b"", raw[1:]):
        assert parse_records(wrong, 3) is None


@pytest.mark.parametrize("which", ["modified_ns", "changed_ns"])
def test_time_stamps_that_are_not_two_seconds_old_prove_nothing(which: str) -> None:
    identity = Identity(1, 2, 3, 0, 0)
    for age, is_settled in ((-1, False), (0, False), (2 * 10**9, False), (2 * 10**9 + 1, True)):
        stamped = identity._replace(**{which: 10**10 - age})
        one = record(identity=stamped, indexed_ns=10**10)
        assert one.is_settled == is_settled
        assert one.proves(stamped) == is_settled
        assert not one.proves(stamped._replace(inode=9))


def test_a_chain_that_grows_layer_by_layer_has_its_records_in_few_places(tmp_path: Path) -> None:
    def later(fd: int) -> int:
        return time.time_ns() + 10**10

    paths = write_chain(tmp_path, [{} for _ in range(100)], 64)
    num_bytes = 0
    with Chain(paths[-1]) as chain, pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "file_system_time", later)
        for length in range(1, 100):
            num_bytes += build(chain.images[:length]).written_bytes
            with StoredIndex.find(paths[length - 1]) as found:
                assert len(found.layers) == length
                assert len(found.segments) <= length.bit_length()
        identities = [image.file.identity for image in chain.images]
        for length in range(1, 100):
            with StoredIndex.find(paths[length - 1]) as found:
                assert found.valid_prefix(identities) == length
                assert found.valid_prefix(identities[: length // 2]) == length // 2
    # Each record was written seven times at most, though there are 99 commits.
    assert num_bytes < 99 * (104 + 7 * (112 + len("99.qcow2"))) + 1024 + 20_000


def test_a_tree_grows_in_depth_and_keeps_what_it_had(tmp_path: Path) -> None:
    assert [depth_for(count) for count in (0, 1, 512, 513, 2**18, 2**18 + 1)] == [1, 1, 1, 2, 2, 3]
    path = tmp_path / "tree"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    file = IndexFile(path, fd, 1024)

    def append(block: bytes) -> int:
        offset = file.end
        os.pwrite(fd, block, offset)
        file.end += len(block)
        return offset

    pointers = np.arange(LEAF_GRANULES, dtype=np.uint64)
    first = append(node_of_level_1(0, pointers))
    one = Tree(file, overlaid(Tree(file, 0, 1), {0: first}, 1, append), 1)
    assert one.offset_of(0, 77) == 77
    assert one.offset_of(0, 512) == 0
    later = append(node_of_level_1(700, pointers + np.uint64(1000)))
    three = Tree(file, overlaid(one, {700: later}, 3, append), 3)
    assert [three.offset_of(0, rank) for rank in (77, 512, 700 * 512 + 5)] == [77, 0, 1005]
    os.close(fd)


def node_of_level_1(rank: int, pointers: np.ndarray) -> bytes:
    content = pointers.astype("<u8").tobytes()
    return content + struct.pack("<II", crc(1, rank, content), 0)


def test_a_leaf_is_of_as_many_layers_as_were_found_valid(paths: list[Path]) -> None:
    with Chain(paths[-1]) as chain:
        build(chain.images[:1])
        identities = [image.file.identity for image in chain.images]
        with StoredIndex.find(paths[0]) as found:
            assert found.valid_prefix(identities) == 1
            assert found.leaf(0, 1) is not None
            assert found.leaf(3, 1) is None
            assert found.path == sidecar_of(paths[0])
            with pytest.raises(ValueError, match="what valid_prefix returned, not 2"):
                found.leaf(0, 2)
