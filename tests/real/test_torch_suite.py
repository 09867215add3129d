"""PyTorch's own tests of its loader pass with ours in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real import torch_suite
from tests.real.debian_source import NotHere
from tests.real.torch_suite import Outcome, over_hatchway, run

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]

# Not of the public contract, or not of the release that runs here. docs/drop-in.md says the same.
LEFT_OUT = {
    "test_ind_worker_queue": "asserts which worker makes which batch",
    "test_out_of_order_index_ds": "asserts that what a slow sample's worker was dealt is late",
    "test_shuffler_iterdatapipe": "about datapipes, which torch has given up",
    "test_get_worker_info": "expects an error that torch 2.13's own WorkerInfo no longer raises",
    "test_segfault": "marked as an expected failure on Linux, where it passes, stock torch's too",
}
ABOUT_WORKER_SEEDS = "test_worker_init_fn"


@pytest.fixture
def text() -> str:
    try:
        return torch_suite.source()
    except NotHere as reason:
        pytest.skip(str(reason))


def failed(outcomes: dict[str, Outcome]) -> str:
    return "\n\n".join(
        f"{name}\n{outcome.text}"
        for name, outcome in outcomes.items()
        if outcome.result == "failed"
    )


def test_they_pass(text: str, tmp_path: Path) -> None:
    left_out = " or ".join([*LEFT_OUT, ABOUT_WORKER_SEEDS])
    outcomes = run(over_hatchway(text), tmp_path, "-k", f"not ({left_out})")
    assert not failed(outcomes)
    assert sum(outcome.result == "passed" for outcome in outcomes.values()) >= 145


def test_those_about_the_seeds_of_workers_pass_with_seeds_as_in_torch(
    text: str, tmp_path: Path
) -> None:
    over = over_hatchway(text, torch_suite.TORCH_SEEDS)
    outcomes = run(over, tmp_path, "-k", ABOUT_WORKER_SEEDS)
    assert not failed(outcomes)
    assert len(outcomes) == 2
