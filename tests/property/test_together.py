"""What a user may ask for at once holds at once: real loaders with arguments drawn at random."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

import hatchway
from hatchway import DataLoader, Deferred, DeferredDataset

NUM_SAMPLES = 37


def make(index: int) -> dict[str, Any]:
    noise = np.random.default_rng(hatchway.sample_seed()).integers(1 << 30)
    return {"index": index, "noise": int(noise), "image": torch.full((2, 3), float(index))}


class Samples(Dataset[Any]):
    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> dict[str, Any]:
        return make(index)


class Batches(Samples):
    """Loads batches at once, and draws for all of a batch."""

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        noise = np.random.default_rng(hatchway.sample_seed()).integers(1 << 30, size=len(indices))
        return [
            {**make(index), "noise": int(one)} for index, one in zip(indices, noise, strict=True)
        ]


class Stream(DeferredDataset[Any]):
    def __iter__(self) -> Any:
        return (Deferred(make, index) for index in range(NUM_SAMPLES))


ARGUMENTS = st.fixed_dictionaries(
    {
        "num_workers": st.sampled_from([0, 1, 2, "auto"]),
        "batch_size": st.sampled_from([1, 4, 10, 40, None]),
        "order": st.sampled_from(["auto", "strict", "ready"]),
        "worker_type": st.sampled_from(["process", "thread"]),
        "device": st.sampled_from([None, "cpu"]),
        "persistent_workers": st.booleans(),
        "drop_last": st.booleans(),
        "shuffle": st.booleans(),
        "record_order": st.booleans(),
        "max_displacement": st.sampled_from([None, 0, 7]),
        "prefetch_factor": st.sampled_from([None, 1, 4]),
    }
)


def possible(drawn: dict[str, Any], *, is_stream: bool) -> dict[str, Any]:
    """The arguments, without what torch or Hatchway refuses together."""
    arguments = dict(drawn)
    if arguments["num_workers"] == 0:
        arguments["persistent_workers"], arguments["prefetch_factor"] = False, None
    else:
        arguments["timeout"] = 60
    if arguments["num_workers"] == "auto":
        arguments["max_workers"] = 3
    if arguments["batch_size"] is None:
        arguments["drop_last"] = False
    if is_stream:
        arguments["shuffle"], arguments["worker_type"] = False, "process"
    return arguments


def samples_of(batch: dict[str, Any]) -> list[tuple[int, int]]:
    """(index, noise) of each sample of a batch, or of the only one."""
    indices, noise = (torch.as_tensor(batch[name]).flatten() for name in ("index", "noise"))
    image = batch["image"].reshape(len(indices), -1)
    assert (image == indices[:, None]).all()
    return list(zip(indices.tolist(), noise.tolist(), strict=True))


def taken(batches: Any) -> list[tuple[int, int]]:
    return [sample for batch in batches for sample in samples_of(batch)]


@settings(suppress_health_check=list(HealthCheck), max_examples=15)
@given(drawn=ARGUMENTS, kind=st.sampled_from([Samples, Batches, Stream]), stop=st.integers(0, 12))
def test_every_sample_comes_once_with_its_content_and_a_pass_goes_on(
    drawn: dict[str, Any], kind: type[Any], stop: int
) -> None:
    arguments = possible(drawn, is_stream=kind is Stream)
    dataset = kind()

    def loader(**others: Any) -> Any:
        torch.manual_seed(11)
        return DataLoader(dataset, **{**arguments, **others})

    serial = {"num_workers": 0, "persistent_workers": False, "prefetch_factor": None}
    for name in ("timeout", "max_workers"):
        serial |= {name: 0 if name == "timeout" else None}
    expected = taken(loader(**serial, order="strict", device=None))
    first = loader()
    found = taken(first)
    size = arguments["batch_size"] or 1
    lost = NUM_SAMPLES % size if arguments["drop_last"] else 0
    assert len(found) == len(set(found)) == NUM_SAMPLES - lost
    if arguments["order"] == "strict":
        assert found == expected
    else:
        assert set(found) <= set(expected) | (set(found) if lost else set())
    again = taken(first)  # another pass of the same loader
    assert len({index for index, _ in again}) == NUM_SAMPLES - lost
    first._iterator = None

    begun = loader()
    iterator = iter(begun)
    batches = list(itertools.islice(iterator, stop))
    is_over = len(batches) < stop  # then another pass begins, which may be another epoch
    came = [] if is_over else taken(batches)
    del batches
    state = begun.state_dict()
    del iterator
    begun._iterator = None
    other = loader()
    other.load_state_dict(state)
    came += taken(other)
    other._iterator = None
    assert len(came) == len(set(came)) == NUM_SAMPLES - lost
    assert is_over or arguments["order"] != "strict" or came == expected


def test_threads_cannot_have_what_processes_read() -> None:
    with pytest.raises(ValueError, match="worker_type='thread' is not possible with an Iterable"):
        DataLoader(Stream(), num_workers=1, worker_type="thread")
    assert DataLoader(Stream(), num_workers=1, worker_type="auto").has_threads is False
