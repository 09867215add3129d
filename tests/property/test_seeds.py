"""What the generators draw depends on (base seed, epoch, position), and on all of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hatchway.loader import native
from hatchway.loader.seeding import (
    PythonSeeder,
    make_seeder,
    restore_generators,
    sample_key,
    save_generators,
    twister_words,
)

seeds = st.integers(0, 2**63 - 1)
epochs = st.integers(0, 2**31)
positions = st.integers(0, 2**40)


@pytest.fixture(autouse=True)
def generators_stay_as_they_were() -> Iterator[None]:
    saved = save_generators()
    yield
    restore_generators(saved)


def draws() -> tuple[Any, ...]:
    """What the three generators give next, through several of their ways."""
    return (
        random.random(),
        random.gauss(0, 1),
        random.getrandbits(100),
        np.random.rand(3).tolist(),
        np.random.normal(),
        np.random.randint(0, 1000),
        torch.rand(3).tolist(),
        torch.randn(17).tolist(),
        torch.randperm(9).tolist(),
        torch.initial_seed(),
    )


@given(base_seed=seeds, epoch=epochs, position=positions, noise=st.integers(0, 5))
def test_the_native_seeder_and_its_twin_agree(
    base_seed: int, epoch: int, position: int, noise: int
) -> None:
    if native.MODULE is None:
        pytest.skip("no native module is built")
    found = []
    for seeder in (make_seeder(), PythonSeeder()):
        for _ in range(noise):
            draws()
        seeder.seed(base_seed, epoch, position)
        found.append(draws())
    assert found[0] == found[1]


@given(one=st.tuples(seeds, epochs, positions), other=st.tuples(seeds, epochs, positions))
def test_streams_are_the_same_only_for_the_same_place(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    seeder = PythonSeeder()
    seeder.seed(*one)
    first = draws()
    seeder.seed(*other)
    second = draws()
    assert (first == second) == (one == other)
    if one != other:
        assert all(a != b for a, b in zip(first[:3], second[:3], strict=True))


@given(base_seed=seeds, epoch=epochs, position=positions)
def test_neighbours_in_every_direction_have_other_keys(
    base_seed: int, epoch: int, position: int
) -> None:
    keys = {
        sample_key((base_seed + a) % 2**63, epoch + b, position + c)
        for a in (0, 1)
        for b in (0, 1)
        for c in (0, 1)
    }
    assert len(keys) == 8


@given(key=st.integers(0, 2**64 - 1))
def test_the_words_of_a_stream_are_roughly_uniform(key: int) -> None:
    words = twister_words(key)
    assert len(np.unique(words)) > 620
    ones = np.unpackbits(words.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 0.03  # 19,968 bits: more than eight standard deviations


def test_first_draws_over_many_positions_are_uniform_and_uncorrelated() -> None:
    seeder = make_seeder()
    found = []
    for position in range(4000):
        seeder.seed(12345, 3, position)
        found.append((random.random(), np.random.rand(), float(torch.rand(1))))
    columns = np.array(found)
    for column in columns.T:
        counts, _ = np.histogram(column, bins=20, range=(0, 1))
        # Chi-square with 19 degrees of freedom; 60 is beyond one in a million.
        assert ((counts - 200) ** 2 / 200).sum() < 60
        assert abs(np.corrcoef(column[:-1], column[1:])[0, 1]) < 0.08
    between = np.corrcoef(columns.T)
    assert abs(between[np.triu_indices(3, 1)]).max() < 0.08
