"""A worker that dies before any line of the loader's code harms nobody."""

from __future__ import annotations

import random

import pytest

from tests.property.epochs import Epochs
from tests.property.setting import Setting
from tests.property.simulation import Actor

SETTINGS = {
    "strict, rows": Setting(pure=True),
    "strict, pickled": Setting(sample="blob", custom_collate=True, odd_keys=True, num_samples=8),
    "overtaking": Setting(
        order="overtaking",
        sample="mixed",
        custom_collate=True,
        pure=True,
        drop_last=True,
        num_samples=11,
        failing=frozenset({4}),
    ),
    "ready, rows": Setting(order="ready", num_samples=10),
    "ready, drop_last": Setting(order="ready", pure=True, drop_last=True, num_samples=11),
    "ready, mixed": Setting(
        order="ready",
        sample="mixed",
        pure=True,
        odd_keys=True,
        num_samples=10,
        failing=frozenset({4}),
    ),
    "ready, single samples": Setting(order="ready", sample="blob", batch_size=1, num_samples=5),
}
# Each line is tried at its first turn, and these many at some later turn.
NUM_LATER = 40


def run_two_epochs(setting: Setting, lines: int | None) -> Actor:
    """Two epochs in which worker 0 dies before ``lines`` lines (None: traced only)."""
    epochs = Epochs(setting)
    first = epochs.crew.actors[0]
    if lines is None:
        first.note_lines()
    else:
        first.kill_before_line(lines)
    try:
        epochs.run_whole(2, random.Random(1).randrange)
    except AssertionError as error:
        raise AssertionError(f"after a death at {first.died_at}: {error}") from error
    finally:
        epochs.close()
    return first


def turns_to_try(places: list[str], draw: random.Random) -> list[int]:
    first: dict[str, int] = {}
    for number, place in enumerate(places):
        first.setdefault(place, number)
    later = sorted(set(range(len(places))) - set(first.values()))
    return sorted([*first.values(), *draw.sample(later, min(NUM_LATER, len(later)))])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_death_before_any_line_loses_nothing_and_invents_nothing(name: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    setting = SETTINGS[name]
    places = run_two_epochs(setting, None).places
    for lines in turns_to_try(places, random.Random(seed)):
        run_two_epochs(setting, lines)
