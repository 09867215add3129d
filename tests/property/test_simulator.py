"""Whatever the samples take, a simulated loader delivers each position once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hatchway.loader.simulator import LOADERS, Costs, Job, Setting

TIMES_S = st.lists(st.sampled_from((0.0, 1e-5, 0.001, 0.01, 0.06, 0.4, 3.0)), min_size=1)
SETTINGS = st.builds(
    Setting,
    num_workers=st.integers(3, 9),
    num_devices=st.integers(1, 3),
    step_s=st.none() | st.sampled_from((0.0, 0.02, 1.0)),
    batch_size=st.integers(1, 9),
    prefetch_factor=st.integers(1, 3),
    num_cores=st.none() | st.sampled_from((0.5, 2.0)),
    max_displacement=st.none() | st.integers(0, 9),
    max_background_workers=st.none() | st.integers(0, 2),
    costs=st.builds(
        Costs,
        sample_s=st.sampled_from((0.0, 1e-4)),
        copy_s=st.sampled_from((0.0, 0.01)),
        fork_s=st.sampled_from((0.0, 0.015)),
        boot_s=st.sampled_from((0.0, 0.1)),
    ),
)


@given(st.sampled_from(LOADERS), TIMES_S, SETTINGS, st.randoms(use_true_random=False))
def test_a_simulated_loader_delivers_each_position_once(
    loader: str, times_s: list[float], setting: Setting, drawn: object
) -> None:
    order = list(range(len(times_s)))
    drawn.shuffle(order)  # type: ignore[attr-defined]
    job = Job(loader, times_s, setting)
    for _ in range(2):
        outcome = job.run(order)
        num_samples = -(-len(order) // setting.num_devices)
        for batches in outcome.delivered:
            positions = [int(position) for batch in batches for position in batch]
            assert sorted(positions) == list(range(num_samples))
            if loader in ("torch", "strict"):
                assert positions == sorted(positions)
            late = max(turn - position for turn, position in enumerate(positions))
            if loader == "ready" and setting.max_displacement is not None:
                assert late <= setting.max_displacement
        assert outcome.num_batches == len(outcome.delivered[0])
        assert outcome.epoch_s >= outcome.num_batches * outcome.step_s * (1 - 1e-9)
        assert outcome.longest_wait_s <= outcome.wait_s <= outcome.epoch_s
