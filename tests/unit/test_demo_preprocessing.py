"""The demo's augmentations: shapes, foreground, and draws from NumPy's global generator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hatchway.cli.demo.preprocessing import (
    Cast,
    GaussianNoise,
    RandomBalancedCrop,
    RandomBrightness,
    RandomFlip,
    foreground_voxel,
    preprocess,
)

Array = npt.NDArray[Any]
SHAPE = (8, 10, 12)


@pytest.fixture(autouse=True)
def keep_the_global_generator() -> Iterator[None]:
    state = np.random.get_state()
    yield
    np.random.set_state(state)


def volume(shape: tuple[int, int, int] = (20, 24, 28)) -> tuple[Array, Array]:
    """A ramp with two small far apart organs, one of each class."""
    image = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    label = np.zeros(shape, dtype=np.uint8)
    label[0:2, 0:2, 0:3] = 1
    label[-2:, -3:, -2:] = 2
    return image, label


def run(seed: int, oversampling: float = 0.4) -> tuple[Array, Array]:
    np.random.seed(seed)
    crop = RandomBalancedCrop(SHAPE, oversampling)
    return preprocess(*volume(), crop=crop, mean=100.0, std=50.0)


@pytest.mark.parametrize("seed", range(10))
def test_a_sample_is_a_float32_image_and_a_uint8_label_of_one_shape(seed: int) -> None:
    image, label = run(seed)
    assert image.shape == label.shape == (1, *SHAPE)
    assert (image.dtype.name, label.dtype.name) == ("float32", "uint8")


@pytest.mark.parametrize("seed", range(20))
def test_a_crop_around_foreground_holds_foreground(seed: int) -> None:
    _, label = run(seed, oversampling=1.0)
    assert label.any()


def test_both_classes_are_chosen_as_foreground() -> None:
    found = {int(run(seed, oversampling=1.0)[1].max()) for seed in range(30)}
    assert found == {1, 2}


def test_a_crop_anywhere_reads_no_more_than_its_box() -> None:
    cuts: list[tuple[slice, ...]] = []

    class Watched(np.ndarray[Any, Any]):
        def __getitem__(self, box: Any) -> Any:
            cuts.append(box)
            return super().__getitem__(box)

    image, label = volume()
    RandomBalancedCrop(SHAPE, 0.0)(image, label.view(Watched))
    assert [tuple(side.stop - side.start for side in box) for box in cuts] == [SHAPE]


def test_a_volume_without_foreground_is_cut_anywhere() -> None:
    image, label = volume()
    crop = RandomBalancedCrop(SHAPE, 1.0)
    assert foreground_voxel(np.zeros_like(label)) is None
    assert crop(image, np.zeros_like(label))[0].shape == SHAPE


def test_the_chosen_voxel_is_foreground() -> None:
    label = (np.random.default_rng(1).random((9, 9, 9)) > 0.8).astype(np.uint8)
    for seed in range(30):
        np.random.seed(seed)
        voxel = foreground_voxel(label)
        assert voxel is not None
        assert label[tuple(voxel)] == 1


def test_a_small_volume_is_padded_with_zeros() -> None:
    image, label = (part[:5, :6] + 1 for part in volume())
    cut_image, cut_label = RandomBalancedCrop(SHAPE, 0.0)(image, label)
    assert cut_image.shape == cut_label.shape == SHAPE
    assert cut_image[:5, :6].all()
    assert not cut_image[5:].any()
    assert not cut_label[:, 6:].any()


def test_flips_mirror_image_and_label_alike() -> None:
    image, _ = volume()
    flipped, alike = RandomFlip(probability=1.0)(image, image.copy())
    np.testing.assert_array_equal(flipped, image[::-1, ::-1, ::-1])
    np.testing.assert_array_equal(flipped, alike)


def test_the_cast_normalises_and_returns_contiguous_copies() -> None:
    image = np.array([[[100, 150], [50, 100]]], dtype=np.int16)
    cast, label = Cast(100.0, 50.0)(image[..., ::-1], image[..., ::-1])
    np.testing.assert_array_equal(cast, [[[1, 0], [0, -1]]])
    assert cast.flags.c_contiguous
    assert label.flags.c_contiguous


def test_brightness_scales_within_its_factor() -> None:
    ones = np.ones(SHAPE, dtype=np.float32)
    for seed in range(20):
        np.random.seed(seed)
        bright, label = RandomBrightness(0.3, probability=1.0)(ones, ones)
        assert bright.dtype == np.float32
        assert 0.7 <= bright.min() == bright.max() <= 1.3
        assert label is ones


def test_noise_is_added_to_the_image_only() -> None:
    np.random.seed(3)
    zeros = np.zeros((32, 32, 32), dtype=np.float32)
    noisy, label = GaussianNoise(std=0.1, probability=1.0)(zeros, zeros)
    assert noisy.dtype == np.float32
    assert 0 < noisy.std() < 0.1
    assert label is zeros


def test_the_same_seed_gives_the_same_sample_and_another_seed_another() -> None:
    once, again, other = run(5), run(5), run(6)
    np.testing.assert_array_equal(once[0], again[0])
    np.testing.assert_array_equal(once[1], again[1])
    assert not np.array_equal(once[0], other[0])


def test_draws_come_from_numpys_global_generator() -> None:
    image, label = volume()
    np.random.seed(0)
    untouched = np.random.random_sample()
    np.random.seed(0)
    preprocess(image, label, crop=RandomBalancedCrop(SHAPE), mean=0.0, std=1.0)
    assert np.random.random_sample() != untouched
