"""Whatever the bytes of an image are, reading it ends, with bytes or with an error of ours."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hatchway.disk import Chain, ImageError, UnsupportedImageError

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]

CLUSTER = 512
SIZE = 64 * CLUSTER
L1, L2, DATA, PACKED = (CLUSTER * place for place in (3, 4, 5, 6))
WORDS = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 511, 512, CLUSTER * 4, 2**62, 2**63, 2**63 + CLUSTER * 5, 2**64 - 1]),
)


def sound_image() -> bytearray:
    """A version 3 file: data, zeros and a compressed cluster."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    packed = packer.compress(b"packed!!" * 64) + packer.flush()
    image = bytearray(CLUSTER * 7)
    struct.pack_into(
        ">4sIQIIQIIQQIIQ", image, 0, b"QFI\xfb", 3, 0, 0, 9, SIZE, 0, 1, L1, 0, 0, 0, 0
    )
    struct.pack_into(">QQQII", image, 72, 0, 0, 0, 4, 104)
    struct.pack_into(">Q", image, L1, 1 << 63 | L2)
    struct.pack_into(">QQQ", image, L2, 1 << 63 | DATA, 1, 1 << 62 | PACKED)
    image[DATA : DATA + CLUSTER] = b"datadata" * 64
    image[PACKED : PACKED + len(packed)] = packed
    return image


def read_all(path: Path) -> None:
    with Chain(path) as chain:
        wanted = min(chain.size, 1 << 20)
        assert len(chain.read_at(0, wanted)) == wanted
        assert len(chain.read_at(max(0, chain.size - 7), 7)) == min(7, chain.size)
        chain.images[-1].snapshots()


def test_the_image_that_the_others_are_made_of_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    path.write_bytes(sound_image())
    with Chain(path) as chain:
        found = chain.read_at(0, SIZE)
    pieces = [b"datadata" * 64, bytes(CLUSTER), b"packed!!" * 64, bytes(SIZE - 3 * CLUSTER)]
    assert found == b"".join(pieces)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=600)
@given(
    words=st.lists(
        st.tuples(
            st.one_of(
                st.integers(0, 14),
                st.sampled_from([L1 // 8, L2 // 8]),
                st.integers(0, CLUSTER * 7 // 8 - 1),
            ),
            WORDS,
        ),
        max_size=4,
    ),
    fields=st.lists(st.tuples(st.integers(0, 28), st.integers(0, 2**32 - 1)), max_size=3),
    length=st.integers(0, CLUSTER * 7) | st.just(CLUSTER * 7),
)
def test_an_image_of_any_bytes(
    words: list[tuple[int, int]], fields: list[tuple[int, int]], length: int, folder: Path
) -> None:
    image = sound_image()
    for at, word in words:
        struct.pack_into(">Q", image, at * 8, word)
    for at, field in fields:
        struct.pack_into(">I", image, at * 4, field)
    path = folder / "one.qcow2"
    path.write_bytes(image[:length])
    try:
        read_all(path)
    except ImageError as error:
        assert str(path) in str(error)  # noqa: PT017


@given(packed=st.binary(max_size=2 * CLUSTER), is_zstd=st.booleans())
def test_a_compressed_cluster_of_any_bytes(packed: bytes, is_zstd: bool, folder: Path) -> None:
    image = sound_image()
    if is_zstd:
        struct.pack_into(">QQQIIB", image, 72, 1 << 3, 0, 0, 4, 112, 1)
    struct.pack_into(">Q", image, L2 + 16, 1 << 62 | 3 << 61 | PACKED)
    path = folder / "packed.qcow2"
    path.write_bytes(bytes(image[:PACKED]) + packed)
    try:
        read_all(path)
    except ImageError as error:
        assert "compressed cluster" in str(error)  # noqa: PT017


def test_a_small_cluster_that_unpacks_to_gigabytes_is_read_as_far_as_it_goes(
    tmp_path: Path,
) -> None:
    import zstandard

    bomb = zstandard.compress(bytes(1 << 28))
    image = sound_image()
    struct.pack_into(">QQQIIB", image, 72, 1 << 3, 0, 0, 4, 112, 1)
    sectors = -(-len(bomb) // 512)
    struct.pack_into(">Q", image, L2 + 16, 1 << 62 | min(sectors, 1) << 61 | PACKED)
    path = tmp_path / "bomb.qcow2"
    path.write_bytes(bytes(image[:PACKED]) + bomb)
    with Chain(path) as chain:
        try:
            assert chain.read_at(2 * CLUSTER, CLUSTER) == bytes(CLUSTER)
        except ImageError as error:  # the frame goes on past what the entry says
            assert "compressed cluster" in str(error)  # noqa: PT017


def test_a_raw_file_whose_offsets_do_not_fit_an_index_is_refused() -> None:
    made = os.memfd_create("large", os.MFD_CLOEXEC)
    try:
        path = Path(f"/proc/self/fd/{made}")
        os.ftruncate(made, 1 << 62)
        os.pwrite(made, b"last", (1 << 62) - 4)
        with Chain(path, image_format="raw", lock=False) as chain:
            assert chain.read_at((1 << 62) - 6, 6) == bytes(2) + b"last"
        os.ftruncate(made, (1 << 62) + 1)
        with pytest.raises(UnsupportedImageError, match="raw file of 4611686018427387905 bytes"):
            Chain(path, image_format="raw", lock=False)
    finally:
        os.close(made)
