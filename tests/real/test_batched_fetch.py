"""A dataset that can load a batch at once (``__getitems__``) is asked to, as by torch."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, StackDataset, Subset, TensorDataset

from hatchway import DataLoader, sample_seed
from hatchway.loader import SampleError, WorkerDiedError
from hatchway.loader.access import fetches_batches

pytestmark = pytest.mark.real

NUM_SAMPLES = 30
SETTINGS = [
    {"num_workers": 0},
    {"num_workers": 1},
    {"num_workers": 2, "timeout": 30},
    {"num_workers": 2, "worker_type": "thread", "timeout": 30},
    {"num_workers": 2, "persistent_workers": True, "timeout": 30},
]


class Table(Dataset[Any]):
    """Tells how many rows were asked for together; a row asked for alone is marked."""

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> Any:
        return {"index": index, "together": -1}

    def __getitems__(self, indices: list[int]) -> Any:
        return [{"index": index, "together": len(indices)} for index in indices]


class Drawing(Table):
    """Draws from torch's generator once for all of a batch."""

    def __getitems__(self, indices: list[int]) -> Any:
        return list(zip(indices, torch.rand(len(indices)).tolist(), strict=True))


class Breaking(Table):
    """Raises in the batch that holds sample 9."""

    def __getitems__(self, indices: list[int]) -> Any:
        if 9 in indices:
            raise ValueError("nine")
        return super().__getitems__(indices)


class Killing(Table):
    """Kills its worker in the batch that holds sample 9, as often as there are bullets."""

    def __init__(self, folder: Path, num_bullets: int) -> None:
        self.folder = folder
        for number in range(num_bullets):
            (folder / str(number)).touch()

    def __getitems__(self, indices: list[int]) -> Any:
        if 9 in indices and (bullets := list(self.folder.iterdir())):
            bullets[0].unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitems__(indices)


def epoch(loader: Any) -> list[Any]:
    return [{name: values.tolist() for name, values in batch.items()} for batch in loader]


def read_through(loader: Any, kind: type[Exception]) -> tuple[list[int], list[Exception]]:
    """The indices that came, and the errors of this kind that came in between."""
    iterator = iter(loader)
    found: list[int] = []
    errors: list[Exception] = []
    while True:
        try:
            found += next(iterator)["index"].tolist()
        except StopIteration:
            return found, errors
        except kind as error:
            errors.append(error)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 4},
        {"batch_size": 4, "drop_last": True},
        {"batch_size": 1},
        {"batch_sampler": [[1, 2], [3], [7, 5, 6, 4]]},
        {"batch_size": None},
    ],
    ids=str,
)
def test_it_is_asked_for_what_torch_asks_it_for(
    setting: dict[str, Any], arguments: dict[str, Any]
) -> None:
    theirs = torch.utils.data.DataLoader(Table(), **arguments)
    ours = DataLoader(Table(), **arguments, **setting)
    if arguments.get("batch_size", 0) is None:
        assert list(ours) == list(theirs)
    else:
        assert epoch(ours) == epoch(theirs)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_in_ready_order_its_batches_are_the_samplers(setting: dict[str, Any]) -> None:
    def loader(kind: Any, **more: Any) -> Any:
        generator = torch.Generator().manual_seed(3)
        return kind(Table(), batch_size=4, shuffle=True, generator=generator, **more)

    ours = epoch(loader(DataLoader, **setting))
    theirs = epoch(loader(torch.utils.data.DataLoader))
    assert sorted(map(str, ours)) == sorted(map(str, theirs))


def test_what_it_draws_does_not_depend_on_the_workers() -> None:
    def drawn(**setting: Any) -> list[Any]:
        torch.manual_seed(5)
        loader = DataLoader(Drawing(), batch_size=4, **setting)
        return [tuple(part.tolist()) for batch in loader for part in batch]

    alone = drawn(num_workers=0)
    assert alone == drawn(num_workers=1) == drawn(num_workers=2)
    assert len(set(alone[1])) == 4


@pytest.mark.parametrize("setting", SETTINGS[:4], ids=str)
def test_what_it_raises_costs_its_batch_and_names_it(setting: dict[str, Any]) -> None:
    loader = DataLoader(Breaking(), batch_size=4, **setting)
    found, errors = read_through(loader, ValueError)
    assert sorted(found) == [*range(8), *range(12, NUM_SAMPLES)]
    (error,) = errors
    assert error.args == ("nine",)
    if setting["num_workers"]:
        assert isinstance(error.__cause__, SampleError)
        assert "__getitems__ of positions [8, 9, 10, 11]" in str(error.__cause__)


def test_a_worker_that_dies_in_it_is_replaced(tmp_path: Path) -> None:
    loader = DataLoader(Killing(tmp_path, 1), batch_size=4, num_workers=2, timeout=30)
    assert [index for batch in epoch(loader) for index in batch["index"]] == [*range(NUM_SAMPLES)]
    assert loader.statistics().num_restarts == 1


def test_a_batch_that_kills_two_workers_is_given_up_alone(tmp_path: Path) -> None:
    loader = DataLoader(Killing(tmp_path, 2), batch_size=4, num_workers=2, timeout=30)
    found, errors = read_through(loader, WorkerDiedError)
    assert found == [*range(8), *range(12, NUM_SAMPLES)]
    (error,) = errors
    assert "positions [8, 9, 10, 11]" in str(error)


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_a_pass_is_gone_on_with(order: str) -> None:
    def loader(num_workers: int) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(3)
        return DataLoader(
            Table(), 4, shuffle=True, num_workers=num_workers, generator=generator, order=order
        )

    first = loader(2)
    batches = iter(first)
    before = [index for _ in range(3) for index in next(batches)["index"].tolist()]
    state = first.state_dict()
    del batches
    for num_workers in (0, 1, 2):
        rest = loader(num_workers)
        rest.load_state_dict(state)
        after = [index for batch in epoch(rest) for index in batch["index"]]
        assert sorted(before + after) == list(range(NUM_SAMPLES))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_without_it_samples_are_asked_for_one_by_one(num_workers: int) -> None:
    loader = DataLoader(Table(), 4, num_workers=num_workers, batched_fetch=False)
    assert [batch["together"] for batch in epoch(loader)] == [[-1] * 4] * 7 + [[-1] * 2]


def test_a_batch_that_comes_ready_is_passed_on_to_collate_fn_as_it_is() -> None:
    class Ready(Table):
        def __getitems__(self, indices: list[int]) -> Any:
            return {"index": torch.tensor(indices)}

    loader = DataLoader(Ready(), 4, num_workers=1, collate_fn=lambda batch: batch)
    assert epoch(loader)[0] == {"index": [0, 1, 2, 3]}


class Functions(Dataset[Any]):
    """Its samples cannot be handed from one worker to another."""

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> Any:
        if index == 25:
            raise ValueError("twenty-five")
        draws = torch.rand(1).item(), sample_seed()
        return {"index": index, "draws": draws, "function": lambda: index}


def called(batch: list[Any]) -> list[Any]:
    for sample in batch:
        sample["index"] = sample.pop("function")()
    return batch


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_batch_is_loaded_in_one_worker_where_that_is_asked_for(setting: dict[str, Any]) -> None:
    def loader(**more: Any) -> Any:
        data, choose = Subset(Functions(), range(25)), {"collate_fn": called, "shuffle": True}
        generator = torch.Generator().manual_seed(1)
        return DataLoader(data, 5, generator=generator, batched_fetch=True, **choose, **more)

    here = sorted(loader(num_workers=0), key=str)
    there = sorted(loader(**setting), key=str)
    if setting.get("worker_type") == "thread":  # whose global generators are everybody's
        for sample in [sample for batch in here + there for sample in batch]:
            sample["draws"] = sample["draws"][1]
        here, there = sorted(here, key=str), sorted(there, key=str)
    assert there == here


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_sample_that_fails_in_such_a_batch_is_named(num_workers: int) -> None:
    loader = DataLoader(
        Functions(), 10, num_workers=num_workers, batched_fetch=True, collate_fn=called
    )

    raised: tuple[Any, ...] = ()
    try:
        list(loader)
    except ValueError as error:
        cause = error.__cause__
        raised = str(error), getattr(cause, "position", None), getattr(cause, "index", None)
    assert raised == (("twenty-five", 25, 25) if num_workers else ("twenty-five", None, None))


def test_a_dataset_without_batches_cannot_be_asked_for_them() -> None:
    with pytest.raises(ValueError, match="batched_fetch=True needs a map-style dataset and"):
        DataLoader([1, 2], None, batched_fetch=True)
    with pytest.raises(ValueError, match="pass batched_fetch=False as well"):
        DataLoader(Table(), 2, sample_sizes=[1] * NUM_SAMPLES)
    with pytest.raises(TypeError, match="batched_fetch must be a bool or None, not 'yes'"):
        DataLoader(Table(), 2, batched_fetch="yes")  # type: ignore[arg-type]


def test_torchs_wrappers_do_what_they_wrap_does() -> None:
    plain = TensorDataset(torch.arange(NUM_SAMPLES))
    assert not fetches_batches(Subset(plain, [1]))
    assert fetches_batches(Subset(Subset(Table(), [1]), [0]))
    assert not fetches_batches(StackDataset(plain, plain))
    assert fetches_batches(StackDataset(plain, Table()))
    assert fetches_batches(StackDataset(one=plain, other=Table()))
    assert not fetches_batches(Table() + Table())
