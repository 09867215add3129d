"""What a chain refuses: what others hold, what it must not open, what leads nowhere."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from hatchway import DataLoader
from hatchway.disk import (
    BackingFileError,
    Chain,
    CorruptImageError,
    ImageError,
    LockedImageError,
    UnsupportedImageError,
)
from tests.real import qemu

pytestmark = [pytest.mark.real, qemu.needs_qemu]

MIB = 1024 * 1024


@pytest.fixture
def chain_of_two(tmp_path: Path) -> Path:
    base = qemu.create(tmp_path / "base.qcow2", MIB)
    qemu.io(base, ["write -P 1 0 64k"])
    return qemu.create(tmp_path / "top.qcow2", None, base)


@contextmanager
def held_by_qemu(path: Path, *flags: str) -> Iterator[None]:
    """An image that qemu-io has open."""
    command = ["qemu-io", *flags, "-f", "qcow2", str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("length\n")
        process.stdin.flush()
        assert process.stdout.readline()  # it is open when it answers
        yield
        process.stdin.close()
        process.stdout.read()


def poke(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def test_an_image_that_qemu_writes_to_is_refused(chain_of_two: Path) -> None:
    with held_by_qemu(chain_of_two):
        with pytest.raises(LockedImageError, match=r"top.qcow2 is open in another program"):
            Chain(chain_of_two)
        with Chain(chain_of_two, lock=False) as chain:
            assert chain.read_at(0, 2) == b"\1\1"
    Chain(chain_of_two).close()


def test_an_image_that_qemu_reads_is_read_beside_it(chain_of_two: Path) -> None:
    with held_by_qemu(chain_of_two, "-r"), Chain(chain_of_two) as chain:
        assert chain.read_at(0, 2) == b"\1\1"


def test_qemu_writes_to_no_file_of_an_open_chain(chain_of_two: Path) -> None:
    base = chain_of_two.with_name("base.qcow2")
    with Chain(chain_of_two):
        for path in (chain_of_two, base):
            with pytest.raises(AssertionError, match='Failed to get "write" lock'):
                qemu.io(path, ["write -P 2 0 64k"])
        with pytest.raises(AssertionError, match='Failed to get "write" lock'):
            qemu.img("commit", "-q", chain_of_two)
        qemu.io(chain_of_two, ["read 0 64k"], "-r")
    qemu.img("commit", "-q", chain_of_two)


def test_a_chain_that_is_dropped_leaves_nothing_open(chain_of_two: Path) -> None:
    def opened() -> list[str]:
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        found = [os.readlink(link) for link in links if os.path.islink(link)]
        return [path for path in found if path.endswith(".qcow2")]

    for most in (None, 1):
        chain = Chain(chain_of_two, max_descriptors=most)
        chain.read_at(0, MIB)
        assert opened()
        del chain
        assert not opened()
    chain_of_two.with_name("base.qcow2").unlink()
    with pytest.raises(BackingFileError):
        Chain(chain_of_two)
    assert not opened()


def test_a_change_of_directory_changes_no_chain(
    chain_of_two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(chain_of_two.parent)
    with Chain(chain_of_two.name, max_descriptors=1) as chain:
        monkeypatch.chdir("/")
        with pickle.loads(pickle.dumps(chain)) as again:
            assert again.read_at(0, MIB) == chain.read_at(0, MIB)


class Pages(Dataset[torch.Tensor]):
    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def __len__(self) -> int:
        return self.chain.size // 65536

    def __getitem__(self, index: int) -> torch.Tensor:
        page = torch.empty(65536, dtype=torch.uint8)
        assert self.chain.readinto_at(index * 65536, page.numpy()) == 65536
        return page


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.timeout(120)
def test_workers_of_a_loader_read_a_chain(method: str, chain_of_two: Path) -> None:
    with Chain(chain_of_two) as chain:
        loader = DataLoader(Pages(chain), 4, num_workers=2, multiprocessing_context=method)
        read = torch.cat(list(loader)).numpy().tobytes()
    assert read == qemu.contents(chain_of_two)


def test_two_chains_may_share_their_base(chain_of_two: Path, tmp_path: Path) -> None:
    other = qemu.create(tmp_path / "other.qcow2", None, chain_of_two.with_name("base.qcow2"))
    with Chain(chain_of_two) as one, Chain(other) as two:
        assert one.read_at(0, MIB) == two.read_at(0, MIB)


def test_a_base_outside_the_images_directory_needs_to_be_allowed(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "bases").mkdir()
    base = qemu.raw(tmp_path / "bases" / "base.raw", b"secret".ljust(MIB))
    top = tmp_path / "images" / "top.qcow2"
    qemu.img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top)
    with pytest.raises(BackingFileError, match=r"allow_backing=, --allow-backing"):
        Chain(top)
    with pytest.raises(BackingFileError, match=r"names .*base.raw as its backing file"):
        Chain(top, allow_backing=[tmp_path / "elsewhere"])
    for allowed in (True, [base.parent], [str(tmp_path)]):
        with Chain(top, allow_backing=allowed) as chain:
            assert chain.read_at(0, 6) == b"secret"


def test_a_link_to_a_base_elsewhere_does_not_help(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    qemu.raw(tmp_path / "secret.raw", bytes(MIB))
    (tmp_path / "images" / "base.raw").symlink_to(tmp_path / "secret.raw")
    top = qemu.create(tmp_path / "images" / "top.qcow2", None, tmp_path / "images" / "base.raw")
    with pytest.raises(BackingFileError, match="lies outside"):
        Chain(top)


def test_a_data_file_elsewhere_does_not_help_either(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    top = tmp_path / "images" / "top.qcow2"
    qemu.create(top, MIB, data_file=tmp_path / "data.bin")
    with pytest.raises(BackingFileError, match=r"external data file, which lies outside"):
        Chain(top)
    Chain(top, allow_backing=True).close()


def test_a_loop_is_named(tmp_path: Path) -> None:
    first = qemu.create(tmp_path / "first.qcow2", MIB)
    second = qemu.create(tmp_path / "second.qcow2", None, first)
    qemu.img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", second.name, first)
    with pytest.raises(BackingFileError, match=r"first.qcow2 names .*second.qcow2 .* a loop"):
        Chain(second)


def test_a_missing_base_is_named(chain_of_two: Path) -> None:
    chain_of_two.with_name("base.qcow2").unlink()
    with pytest.raises(BackingFileError, match=r"base.qcow2 cannot be opened: No such file"):
        Chain(chain_of_two)


def test_a_base_on_another_host_is_refused(tmp_path: Path) -> None:
    top = tmp_path / "top.qcow2"
    name = "nbd://localhost:1/x"
    qemu.img("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", top, "1M")
    with pytest.raises(UnsupportedImageError, match="which is no file of this host"):
        Chain(top)


def test_a_base_that_is_described_in_json(tmp_path: Path) -> None:
    base = qemu.raw(tmp_path / "base.raw", b"x" * MIB)
    name = f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{base}"}}}}'
    top = tmp_path / "top.qcow2"
    qemu.img("create", "-q", "-f", "qcow2", "-b", name, "-F", "raw", top)
    with Chain(top) as chain:
        assert chain.read_at(5, 3) == b"xxx"


def test_an_encrypted_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    secret, options = "secret,id=s,data=0", "encrypt.format=aes,encrypt.key-secret=s"
    qemu.img("create", "-q", "--object", secret, "-f", "qcow2", "-o", options, path, "1M")
    with pytest.raises(UnsupportedImageError, match=r"is encrypted \(AES\)"):
        Chain(path)
    # On a busy machine qemu-img gives up making one with LUKS: it cannot time its key function.
    poke(path, 32, struct.pack(">I", 2))
    with pytest.raises(UnsupportedImageError, match=r"is encrypted \(LUKS\)"):
        Chain(path)


def test_something_else_than_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ImageError, match="neither a regular file nor a block device"):
            Chain(path)


@pytest.mark.parametrize(
    ("offset", "content", "said"),
    [
        (4, struct.pack(">I", 4), "of version 4; 2 and 3"),
        (20, struct.pack(">I", 8), r"clusters of 2\*\*8 bytes"),
        (20, struct.pack(">I", 1 << 31), r"clusters of 2\*\*2147483648 bytes"),
        (16, struct.pack(">I", 5000), "said to have 5000 bytes"),
        (24, struct.pack(">Q", 1 << 62), "too few for a disk of"),
        (36, struct.pack(">I", 0xFFFFFFFF), "has 4294967295 entries"),
        (40, struct.pack(">Q", 1 << 40), "said to lie at 0x10000000000"),
        (40, struct.pack(">Q", 513), "said to lie at 0x201"),
        (72, struct.pack(">Q", 1 << 40), "needs feature 40"),
        (72, struct.pack(">Q", 1 << 2), "does not say in which"),
        (96, struct.pack(">I", 9), r"refcounts of 2\*\*9 bits"),
        (100, struct.pack(">I", 1 << 20), "says that it has 1048576 bytes"),
    ],
)
def test_a_damaged_header_is_refused(
    offset: int, content: bytes, said: str, chain_of_two: Path
) -> None:
    poke(chain_of_two, offset, content)
    with pytest.raises((CorruptImageError, UnsupportedImageError), match=said) as caught:
        Chain(chain_of_two)
    assert caught.value.path == chain_of_two


def test_damaged_tables_are_named_when_they_are_read(tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", 4 * MIB)
    qemu.io(path, ["write -P 1 0 64k"])
    with path.open("rb") as file:
        (l1_offset,) = struct.unpack(">Q", file.read(48)[40:])
        file.seek(l1_offset)
        (l1_entry,) = struct.unpack(">Q", file.read(8))
    l2_offset = l1_entry & 0x00FFFFFFFFFFFE00
    for at, value, said in (
        (l2_offset, 0x20000 + 512 | 1 << 63, "of guest cluster 0, does not point to"),
        (l1_offset, 1 << 40, "past the end of the file"),
        (l1_offset, 0x200 | 1 << 63, "not the beginning of a cluster"),
    ):
        poke(path, at, struct.pack(">Q", value))
        with Chain(path) as chain, pytest.raises(CorruptImageError, match=said) as caught:
            chain.read_at(0, 1)
        assert caught.value.offset == at


def test_damage_in_the_middle_of_a_chain_is_named(tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "0.qcow2", MIB)
    for number in range(1, 5):
        qemu.io(path, ["write -P 1 128k 64k"])
        path = qemu.create(tmp_path / f"{number}.qcow2", None, path)
    damaged = tmp_path / "2.qcow2"
    with damaged.open("rb") as file:
        (l1_offset,) = struct.unpack(">Q", file.read(48)[40:])
        file.seek(l1_offset)
        (l1_entry,) = struct.unpack(">Q", file.read(8))
    at = (l1_entry & 0x00FFFFFFFFFFFE00) + 2 * 8
    poke(damaged, at, struct.pack(">Q", 0x20000 + 512 | 1 << 63))
    with Chain(path) as chain, pytest.raises(CorruptImageError, match="of guest cluster 2,") as it:
        chain.read_at(0, 1)
    assert (it.value.path, it.value.offset) == (damaged, at)


def test_a_damaged_compressed_cluster_is_named(tmp_path: Path) -> None:
    for compression in ("zlib", "zstd"):
        path = qemu.create(tmp_path / f"{compression}.qcow2", MIB, compression_type=compression)
        qemu.io(path, ["write -c -P 7 64k 64k"])
        with path.open("rb") as file:
            content = file.read()
        last = max(at for at in range(0, len(content), 512) if any(content[at : at + 512]))
        poke(path, last, b"\xff" * 200)
        with Chain(path) as chain, pytest.raises(CorruptImageError, match="cannot be unpacked"):
            chain.read_at(64 * 1024, 1)


def test_wrong_arguments_are_refused(chain_of_two: Path) -> None:
    with pytest.raises(ValueError, match="cache_bytes must be at least 0, not -1"):
        Chain(chain_of_two, cache_bytes=-1)
    with pytest.raises(ValueError, match="max_descriptors must be at least 1, not 0"):
        Chain(chain_of_two, max_descriptors=0)
    with pytest.raises(ImageError, match=r"no internal snapshot 'x'; it has none"):
        Chain(chain_of_two, snapshot="x")
    with Chain(chain_of_two) as chain:
        for offset, size in ((-1, 5), (0, -1)):
            with pytest.raises(ValueError, match="must be at least 0"):
                chain.read_at(offset, size)
        with pytest.raises(ValueError, match="is not within the disk's 1048576 bytes"):
            list(chain.map(0, MIB + 1))
        assert chain.read_at(MIB, 10) == b""
        assert chain.read_at(MIB - 1, 10) == b"\0"
    with pytest.raises(ValueError, match="the chain is closed"):
        chain.read_at(0, 1)


def test_openers_of_the_same_files_keep_what_they_know_once(chain_of_two: Path) -> None:
    with Chain(chain_of_two) as first:
        first.read_at(0, first.size)
        known = first.cached_bytes
        assert known > 0
        with Chain(chain_of_two) as second, Chain(chain_of_two, lock=False) as apart:
            assert second.cached_bytes == known
            assert apart.cached_bytes == 0
            assert second.read_at(0, second.size) == first.read_at(0, first.size)
        assert first.cached_bytes == known
        with Chain(chain_of_two) as third:
            first.close()
            assert third.cached_bytes == known
            assert len(third.read_at(0, MIB)) == MIB
        with Chain(chain_of_two) as later:
            assert later.cached_bytes == known
    qemu.io(chain_of_two, ["write -P 123 0 512"])
    with Chain(chain_of_two) as changed:
        assert changed.read_at(0, 512) == bytes([123] * 512)
