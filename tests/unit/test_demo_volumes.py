"""Volumes of recorded sizes, cut out of real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hatchway.cli.demo.dataset import SegmentationVolumes
from hatchway.cli.demo.preprocessing import RandomBalancedCrop
from hatchway.cli.demo.shapes import Case, read_cases, spread, spread_over_sizes
from hatchway.cli.demo.sources import load_sources
from hatchway.cli.demo.volumes import cut_cases, enclosing_shape, mirrored, write_scans

SCALE = 0.1


@pytest.fixture(autouse=True)
def keep_the_global_generator() -> Iterator[None]:
    state = np.random.get_state()
    yield
    np.random.set_state(state)


def test_the_demo_ships_the_shapes_of_all_210_cases() -> None:
    cases = read_cases(1.0)
    assert len({case.name for case in cases}) == 210
    # 611 slices of 0.5 mm and 512 rows of 0.92 mm, at 1.6 x 1.2 x 1.2 mm.
    assert cases[0] == Case("case_00000", (191, 392, 392))


def test_the_scale_applies_to_each_axis() -> None:
    whole, half = read_cases(1.0)[7], read_cases(0.5)[7]
    assert all(abs(2 * b - a) <= 1 for a, b in zip(whole.shape, half.shape, strict=True))


def test_a_scale_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        read_cases(0.0)


@pytest.mark.parametrize("count", [1, 5, 48, 209, 210, 500])
def test_chosen_cases_are_distinct_and_spread_over_the_sizes(count: int) -> None:
    cases = read_cases(SCALE)
    chosen = spread_over_sizes(cases, count)
    assert len(set(chosen)) == len(chosen) == min(count, 210)
    sizes = np.array([case.num_voxels for case in cases])
    if 5 <= count <= 210:
        ratio = np.mean([case.num_voxels for case in chosen]) / sizes.mean()
        assert 0.9 < ratio < 1.1


def test_spreading_nothing_gives_nothing() -> None:
    assert spread([], 3) == []


def test_a_mirrored_axis_goes_to_and_fro() -> None:
    assert mirrored(3, 8).tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert mirrored(3, 2).tolist() == [0, 1]


def test_every_case_lies_within_its_scan() -> None:
    cases = read_cases(SCALE)
    shape = enclosing_shape(cases)
    cuts = cut_cases(cases, shape, 3, seed=1)
    for cut, case in zip(cuts, cases, strict=True):
        assert tuple(side.stop - side.start for side in cut.box) == case.shape
        assert all(
            side.start >= 0 and side.stop <= whole
            for side, whole in zip(cut.box, shape, strict=True)
        )
    assert {cut.scan for cut in cuts} == {0, 1, 2}


def test_a_case_larger_than_the_scan_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"big \(9, 9, 9\) does not fit"):
        cut_cases([Case("big", (9, 9, 9))], (9, 9, 8), 1, seed=0)


def test_the_wheels_hold_real_volumes_and_each_has_foreground(tmp_path: Path) -> None:
    sources = load_sources()
    assert len(sources) == 3
    scans = list(write_scans(sources, (40, 44, 48), tmp_path))
    for scan in scans:
        image, label = np.load(scan.image_path), np.load(scan.label_path)
        assert image.shape == label.shape == (40, 44, 48)
        assert (image.dtype, label.dtype) == (np.int16, np.uint8)
        assert set(np.unique(label)) <= {0, 1, 2}
        assert scan.std > 0


def dataset(folder: Path, *, epoch: int = 0) -> SegmentationVolumes:
    cases = spread_over_sizes(read_cases(SCALE), 6)
    shape = enclosing_shape(cases)
    scans = list(write_scans(load_sources(), shape, folder))
    cuts = cut_cases(cases, shape, len(scans), seed=0)
    crop = RandomBalancedCrop((16, 16, 16))
    return SegmentationVolumes(scans, cuts, crop, seed=0, epoch=epoch)


def test_a_sample_depends_on_its_case_and_epoch_only(tmp_path: Path) -> None:
    samples = dataset(tmp_path)
    image, label, case = samples[4]
    samples[1]
    again = samples[4]
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(label, again[1])
    assert case == 4
    assert not np.array_equal(image, samples.at_epoch(1)[4][0])


def test_fewer_cases_keep_the_spread_of_sizes_and_are_numbered_anew(tmp_path: Path) -> None:
    samples = dataset(tmp_path)
    assert samples.indices_by_size(6) == sorted(samples.indices_by_size(6))
    assert len(samples.spread(3)) == 3
    assert samples.spread(3)[2][2] == 2


def test_both_ways_of_cropping_can_be_timed(tmp_path: Path) -> None:
    samples = dataset(tmp_path)
    assert samples.seconds(0, oversampled=True) > 0
    assert samples.seconds(0, oversampled=False) > 0
