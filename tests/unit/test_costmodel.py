"""What samples cost is learned from their own past, from sizes and from neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatchway.loader.cost import LEAST_CUT_S
from hatchway.loader.costmodel import CostModel
from hatchway.loader.errors import StateError
from hatchway.loader.foresight import Foresight

NUM = 400


def _indices(*values: int) -> Any:
    return np.array(values, np.int64)


def _seconds(*values: float) -> Any:
    return np.array(values, np.float32)


def _half_seen(model: CostModel, cost_of: Any, seed: int = 0) -> tuple[Any, Any]:
    """Show half of the indices in a random order, a few at a time; return the other half."""
    order = np.random.default_rng(seed).permutation(NUM)
    for part in np.array_split(order[: NUM // 2], 40):
        model.observe(part, cost_of(part).astype(np.float32))
    unseen = order[NUM // 2 :]
    return unseen, cost_of(unseen)


def test_cheap_samples_are_not_stored() -> None:
    model = CostModel(NUM)
    model.observe(_indices(1, 2), _seconds(LEAST_CUT_S, 1e-5))
    assert not model.is_useful
    assert model.predict(_indices(1, 2)).tolist() == [0.0, 0.0]
    model.observe(_indices(3), _seconds(2 * LEAST_CUT_S))
    assert model.is_useful


def test_a_few_slow_samples_among_millions_are_not_worth_a_table() -> None:
    model = CostModel(100_000)
    for index in range(10):
        model.observe(_indices(index, 20), _seconds(2 * LEAST_CUT_S, 1e-5))
        assert not model.is_useful
    model.observe(_indices(10), _seconds(2 * LEAST_CUT_S))
    assert model.is_useful


def test_an_index_is_predicted_from_its_own_past() -> None:
    model = CostModel(NUM)
    model.observe(_indices(5, 6), _seconds(0.1, 0.004))
    assert model.predict(_indices(5, 6)).tolist() == pytest.approx([0.1, 0.004])
    model.observe(_indices(5), _seconds(0.3))
    assert model.predict(_indices(5)).tolist() == pytest.approx([0.2])


def test_negative_indices_count_from_the_end_and_foreign_ones_are_left_alone() -> None:
    model = CostModel(NUM)
    model.observe(_indices(-1, NUM, -NUM - 1), _seconds(0.1, 0.2, 0.3))
    assert model.predict(_indices(NUM - 1, -1)).tolist() == pytest.approx([0.1, 0.1])
    assert model.predict(_indices(NUM, -NUM - 1)).tolist() == [0.0, 0.0]


def test_a_dataset_without_a_length_is_not_learned() -> None:
    model = CostModel(0)
    model.observe(_indices(1), _seconds(1.0))
    assert not model.is_useful


def test_an_index_that_was_never_seen_takes_the_usual_time_if_nothing_tells_more() -> None:
    model = CostModel(NUM)
    draw = np.random.default_rng(1)
    unseen, _ = _half_seen(model, lambda at: draw.choice([0.01, 0.1], len(at)))
    assert model.predict(unseen) == pytest.approx(model.usual_s)
    assert 0.01 < model.usual_s < 0.1


def test_neighbours_tell_the_cost_where_they_are_alike() -> None:
    model = CostModel(NUM)
    unseen, cost = _half_seen(model, lambda at: np.where(at < NUM // 4, 0.2, 0.005))
    off = np.abs(np.log(model.predict(unseen) / cost))
    assert np.mean(off < 0.05) > 0.8


def test_sizes_tell_the_cost_where_they_go_with_it() -> None:
    sizes = np.random.default_rng(2).uniform(1e3, 1e6, NUM)
    model = CostModel(NUM, sizes)
    unseen, cost = _half_seen(model, lambda at: 0.001 + 1e-7 * sizes[at])
    assert model.predict(unseen) == pytest.approx(cost, rel=0.05)


def test_sizes_that_say_nothing_are_not_believed() -> None:
    sizes = np.random.default_rng(3).uniform(1, 2, NUM)
    model = CostModel(NUM, sizes)
    draw = np.random.default_rng(4)
    unseen, _ = _half_seen(model, lambda at: draw.choice([0.01, 0.1], len(at)))
    assert model.predict(unseen) == pytest.approx(model.usual_s)


@given(st.lists(st.tuples(st.integers(0, NUM - 1), st.floats(1e-6, 20.0)), min_size=1))
def test_a_saved_model_predicts_the_same_within_four_percent(seen: list[Any]) -> None:
    model = CostModel(NUM)
    indices = _indices(*(index for index, _ in seen))
    model.observe(indices, _seconds(*(seconds for _, seconds in seen)))
    again = CostModel(NUM)
    again.load_state_dict(model.state_dict())
    assert again.is_useful == model.is_useful
    assert again.predict(indices) == pytest.approx(model.predict(indices), rel=0.04)


def test_a_saved_model_takes_a_byte_an_index_at_most() -> None:
    model = CostModel(100_000)
    everything = np.arange(100_000)
    model.observe(everything, np.random.default_rng(5).uniform(0, 1, 100_000).astype(np.float32))
    assert len(model.state_dict()["costs"]) < 100_000


def test_a_model_of_another_dataset_is_refused() -> None:
    with pytest.raises(StateError, match="of 10 samples, this one has 400"):
        CostModel(NUM).load_state_dict(CostModel(10).state_dict())


@pytest.mark.parametrize("cut", [0, 3, -1])
def test_a_damaged_model_is_refused(cut: int) -> None:
    model = CostModel(NUM)
    model.observe(_indices(1), _seconds(1.0))
    state = model.state_dict()
    state["costs"] = state["costs"][:cut]
    with pytest.raises(StateError, match="damaged"):
        CostModel(NUM).load_state_dict(state)


def _foresight(*, num_workers: int = 4) -> Foresight:
    """Index 0 takes 100 ms, the others 10."""
    model = CostModel(NUM)
    costs = np.full(NUM, 0.01, np.float32)
    costs[0] = 0.1
    model.observe(np.arange(NUM), costs)
    return Foresight(model, num_workers)


def test_a_slow_sample_leads_by_the_positions_that_go_by_while_it_runs() -> None:
    foresight = _foresight()
    for number in range(6):
        foresight.delivered(10, number * 0.05)  # 5 ms a position
    found = foresight.look(_indices(1, 0, 2))
    assert found is not None
    cost, lead = found
    assert cost.tolist() == pytest.approx([0.01, 0.1, 0.01])
    assert lead[0] == lead[2] == 0
    assert lead[1] == pytest.approx((0.1 - 0.01) / 0.005, abs=1)


def test_before_the_loop_has_shown_its_pace_the_workers_tell_it() -> None:
    assert _foresight(num_workers=4).pace_s() == pytest.approx(0.0102 / 4, rel=0.05)


def test_the_wait_for_the_first_batch_of_an_epoch_is_no_pace() -> None:
    foresight = _foresight()
    foresight.begin()
    foresight.delivered(10, 100.0)
    for number in range(1, 6):
        foresight.delivered(10, 100.0 + number)
    foresight.begin()
    foresight.delivered(10, 10_000.0)
    assert foresight.pace_s() == pytest.approx(0.1)


def test_samples_of_the_usual_cost_start_in_turn() -> None:
    assert _foresight().look(_indices(1, 2, 3)) is None
