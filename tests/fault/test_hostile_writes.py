"""Whatever the bytes of an image are, writing to it ends, at worst with an error of ours."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hatchway.disk import ImageError
from hatchway.disk.active import create
from tests.real.layers import writing

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]

CLUSTER = 512
SIZE = 64 * 1024
NUM_BYTES = 24 * CLUSTER
WORDS = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 2**62, 2**63, 2**64 - 1]),
    st.integers(0, 24).map(lambda cluster: cluster * CLUSTER),
    st.integers(0, 24).map(lambda cluster: 1 << 63 | cluster * CLUSTER),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    create(folder / "sound.qcow2", SIZE, cluster_size=CLUSTER)
    with writing(folder / "sound.qcow2") as layer:
        layer.write(0, b"\1" * 2000)
        layer.write(40_000, b"\2" * 2000)
    return folder


def change_all(path: Path) -> None:
    with writing(path) as layer:
        for call in (
            lambda: layer.write(100, b"\3" * 3000),
            lambda: layer.write_zeroes(1000, 1000, may_unmap=False),
            layer.flush,
            lambda: layer.write(min(39_000, layer.size - 1), b"\4"),
            lambda: layer.discard(0, min(layer.size, 1 << 20)),
            lambda: layer.resize(SIZE * 8),
            lambda: layer.resize(SIZE // 2),
        ):
            try:
                call()
            except ValueError as error:
                assert "disk" in str(error)  # noqa: PT017


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=400)
@given(
    words=st.lists(st.tuples(st.integers(0, NUM_BYTES // 8 - 1), WORDS), max_size=4),
    fields=st.lists(st.tuples(st.integers(0, 28), st.integers(0, 2**32 - 1)), max_size=2),
    length=st.integers(0, NUM_BYTES) | st.just(NUM_BYTES),
)
def test_writing_to_an_image_of_any_bytes(
    words: list[tuple[int, int]], fields: list[tuple[int, int]], length: int, folder: Path
) -> None:
    image = bytearray((folder / "sound.qcow2").read_bytes().ljust(NUM_BYTES, b"\0"))
    for at, word in words:
        struct.pack_into(">Q", image, at * 8, word)
    for at, field in fields:
        struct.pack_into(">I", image, at * 4, field)
    path = folder / "one.qcow2"
    path.write_bytes(image[:length])
    try:
        change_all(path)
    except ImageError as error:
        assert str(path) in str(error)  # noqa: PT017
