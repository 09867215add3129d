"""The class stands where torch's stands: arguments, attributes, errors, start methods."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.utils.data
from torch.utils.data import Dataset, IterableDataset

from hatchway import DataLoader
from tests.real.gates import PATIENCE_S
from tests.real.shapes import Samples, fixed, frozen, tiny

pytestmark = pytest.mark.real
StockLoader = torch.utils.data.DataLoader
NUMBERS = list(range(10))


def test_it_is_a_data_loader_with_torchs_arguments_in_torchs_order() -> None:
    assert issubclass(DataLoader, StockLoader)
    ours = list(inspect.signature(DataLoader.__init__).parameters.values())
    theirs = list(inspect.signature(StockLoader.__init__).parameters.values())
    assert [(p.name, p.kind, p.default) for p in ours[: len(theirs)]] == [
        (p.name, p.kind, p.default) for p in theirs
    ]
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])
    assert [p.name for p in ours[len(theirs) :]] == [
        "order",
        "slow_after_s",
        "buffer_bytes",
        "max_workers",
        "max_background_workers",
        "max_displacement",
        "sample_sizes",
        "prepare_next_epoch",
        "record_order",
        "replay",
        "device",
        "seeding",
        "batched_fetch",
        "worker_type",
        "share_workers",
    ]


def outcome(build: Any) -> Any:
    try:
        return type(build()).__name__.replace("DataLoader", "")
    except Exception as error:
        return type(error), str(error)


WRONG: list[dict[str, Any]] = [
    {"num_workers": -1},
    {"timeout": -1},
    {"prefetch_factor": 2},
    {"prefetch_factor": -2, "num_workers": 1},
    {"persistent_workers": True},
    {"sampler": NUMBERS, "shuffle": True},
    {"batch_sampler": [[1]], "batch_size": 2},
    {"batch_sampler": [[1]], "shuffle": True},
    {"batch_sampler": [[1]], "sampler": NUMBERS},
    {"batch_sampler": [[1]], "drop_last": True},
    {"batch_size": None, "drop_last": True},
    {"batch_size": 0},
    {"batch_size": -3},
    {"batch_size": 2.5},
    {"batch_size": "4"},
    {"drop_last": "yes"},
    {"multiprocessing_context": "fork"},
    {"multiprocessing_context": "bad", "num_workers": 1},
    {"multiprocessing_context": object, "num_workers": 1},
    {"num_workers": "2"},
    {"no_such_argument": 1},
    {"shuffle": True, "dataset": []},
]


@pytest.mark.parametrize("arguments", WRONG, ids=str)
def test_a_wrong_argument_raises_what_torch_raises(arguments: dict[str, Any]) -> None:
    arguments = {"dataset": NUMBERS} | arguments
    ours = outcome(lambda: DataLoader(**arguments))
    theirs = outcome(lambda: StockLoader(**arguments))
    assert ours[0] is theirs[0]
    says_more = isinstance(arguments.get("num_workers"), str)  # of "auto"
    if "no_such_argument" not in arguments and not says_more:
        assert re.sub("0x[0-9a-f]+", "", ours[1]) == re.sub("0x[0-9a-f]+", "", theirs[1])


class Stream(IterableDataset[int]):
    def __len__(self) -> int:
        return 7

    def __iter__(self) -> Any:
        return iter(range(7))


@pytest.mark.parametrize(
    "arguments", [{"shuffle": True}, {"sampler": NUMBERS}, {"batch_sampler": [[0]]}], ids=str
)
def test_a_wrong_argument_beside_an_iterable_dataset_raises_what_torch_raises(
    arguments: dict[str, Any],
) -> None:
    assert issubclass(outcome(lambda: StockLoader(Stream(), **arguments))[0], ValueError)
    assert outcome(lambda: DataLoader(Stream(), **arguments)) == outcome(
        lambda: StockLoader(Stream(), **arguments)
    )


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("order", ["auto", "strict", "ready"])
def test_iterable_datasets_run_as_with_torch(num_workers: int, order: str) -> None:
    loader = DataLoader(Stream(), 3, num_workers=num_workers, order=order)
    assert [batch.tolist() for batch in loader] == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(loader) == 3


@pytest.mark.parametrize(
    "name", ["batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers"]
)
def test_what_torch_does_not_let_one_set_later_cannot_be_set(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} attribute should not be set after DataLoader"):
        setattr(DataLoader(NUMBERS), name, 3)


def test_what_torch_lets_one_set_later_can_be_set() -> None:
    loader = DataLoader(NUMBERS, 5, num_workers=1)
    loader.num_workers = 2
    loader.collate_fn = list
    loader.order = "ready"
    assert sorted(number for batch in loader for number in batch) == NUMBERS
    assert loader.statistics().order == "ready"
    loader.order = "sorted"
    with pytest.raises(ValueError, match=r"order must be .* not 'sorted'"):
        iter(loader)
    loader.order, loader.num_workers = "auto", -1
    with pytest.raises(ValueError, match="num_workers must be at least 0, not -1"):
        iter(loader)


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 3},
        {"batch_size": 3, "drop_last": True},
        {"batch_size": None},
        {"batch_sampler": [[0], [1, 2]]},
        {"batch_size": 4, "sampler": [1, 2, 3, 4, 5]},
    ],
    ids=str,
)
def test_its_length_is_torchs_and_the_number_of_batches(arguments: dict[str, Any]) -> None:
    loader = DataLoader(NUMBERS, **arguments, num_workers=1)
    assert len(loader) == len(StockLoader(NUMBERS, **arguments)) == len(list(loader))
    assert len(iter(loader)) == len(loader)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_loader_can_be_copied_and_pickled(copied: Any) -> None:
    loader = DataLoader(
        Samples(tiny),
        4,
        num_workers=1,
        order="ready",
        buffer_bytes=1 << 22,
        slow_after_s=2,
        device=torch.device("cpu"),
    )
    assert len(list(loader)) == 6
    other = copied(loader)
    assert type(other) is DataLoader
    assert other.options == loader.options
    assert [b.tolist() for b in other] == [b.tolist() for b in StockLoader(Samples(tiny), 4)]


def test_a_loader_can_be_built_again_from_its_signature_and_attributes() -> None:
    # As Lightning does it to put another sampler into a loader.
    loader = DataLoader(
        Samples(fixed),
        4,
        num_workers=2,
        prefetch_factor=3,
        timeout=PATIENCE_S,
        multiprocessing_context="fork",
        order="strict",
        slow_after_s=1.5,
        buffer_bytes=1 << 22,
        max_background_workers=1,
        device="cpu",
        seeding="torch",
    )
    attributes = {name: value for name, value in vars(loader).items() if name[0] != "_"}
    attributes["multiprocessing_context"] = loader.multiprocessing_context
    parameters = inspect.signature(DataLoader.__init__).parameters
    missing = set(parameters) - set(attributes) - {"self", "shuffle"}
    assert not missing
    arguments = {name: attributes[name] for name in parameters if name in attributes}
    arguments |= {"batch_sampler": None, "sampler": list(reversed(range(23)))}
    again = DataLoader(**arguments)
    assert again.options == loader.options
    assert (again.prefetch_factor, again.timeout, again.batch_size) == (3, PATIENCE_S, 4)
    assert [frozen(batch) for batch in again] == [
        frozen(batch)
        for batch in StockLoader(
            **{name: value for name, value in arguments.items() if hasattr(StockLoader([0]), name)}
        )
    ]


class Louder(DataLoader[Any]):
    """A user's subclass."""

    def __iter__(self) -> Any:
        return (batch + 100 for batch in super().__iter__())


def test_it_can_be_subclassed_and_parametrised() -> None:
    assert [b.tolist() for b in Louder(NUMBERS, 5, num_workers=1)] == [
        [*range(100, 105)],
        [*range(105, 110)],
    ]
    assert DataLoader[int] is not None


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("as_object", [False, True])
def test_every_start_method_gives_the_same_batches(method: str, as_object: bool) -> None:
    if as_object and method != "fork":
        # A start costs seconds, and torch makes the object of the string itself.
        context: Any = multiprocessing.get_context(method)
        assert DataLoader([1], num_workers=1, multiprocessing_context=context) is not None
        return
    context = multiprocessing.get_context(method) if as_object else method
    loader = DataLoader(
        Samples(fixed), 8, num_workers=1, multiprocessing_context=context, timeout=PATIENCE_S
    )
    ours = [frozen(batch) for batch in loader]
    assert ours == [frozen(batch) for batch in StockLoader(Samples(fixed), 8, num_workers=0)]


def test_several_iterators_at_once_do_not_disturb_each_other() -> None:
    loader = DataLoader(NUMBERS, 3, num_workers=1)
    pairs = [(a.tolist(), b.tolist()) for a, b in zip(loader, loader, strict=True)]
    assert pairs == [(batch, batch) for batch in ([0, 1, 2], [3, 4, 5], [6, 7, 8], [9])]


def test_persistent_workers_are_the_same_processes_in_every_epoch() -> None:
    loader = DataLoader(WhoAmI(), 4, num_workers=2, persistent_workers=True)
    seen = {pid for _ in range(4) for batch in loader for pid in batch.tolist()}
    assert len(seen) <= 2
    next(iter(loader))  # an epoch that is left half-way
    again = {pid for batch in loader for pid in batch.tolist()}
    assert again <= seen or len(seen) == 1


class WhoAmI(torch.utils.data.Dataset[int]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, number: int) -> int:
        return os.getpid()


def test_an_exhausted_iterator_stays_exhausted() -> None:
    iterator = iter(DataLoader(NUMBERS, 5, num_workers=1))
    assert len(list(iterator)) == 2
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(iterator)


def test_an_empty_dataset_gives_no_batches() -> None:
    for num_workers in (0, 1):
        for order in ("strict", "ready"):
            assert list(DataLoader([], 4, num_workers=num_workers, order=order)) == []


class Fetches(Dataset[Any]):
    """Has no ``__getitem__`` of its own."""

    def __len__(self) -> int:
        return 10

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [torch.tensor([index]) for index in indices]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_dataset_with_getitems_only_gives_what_it_gives_with_torch(num_workers: int) -> None:
    theirs = [batch.tolist() for batch in torch.utils.data.DataLoader(Fetches(), 4)]
    ours = DataLoader(Fetches(), 4, num_workers=num_workers, timeout=30 * (num_workers > 0))
    assert [batch.tolist() for batch in ours] == theirs


@pytest.mark.parametrize("batch_size", [1, 3])
def test_default_collate_in_a_worker_makes_no_shared_memory_of_torchs(batch_size: int) -> None:
    def collate(samples: list[Any]) -> list[bool]:
        assert torch.utils.data.get_worker_info() is not None
        batch = torch.utils.data.default_collate([(torch.ones(4), "name")] * len(samples))
        return [batch[0].is_shared()]

    loader: DataLoader[Any] = DataLoader(
        Fetches(), batch_size, num_workers=1, collate_fn=collate, timeout=30
    )
    assert not any(flag for batch in loader for flag in batch)


def test_a_prefetch_factor_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="prefetch_factor must be at least 1"):
        iter(DataLoader(Fetches(), 4, num_workers=1, prefetch_factor=0))


def test_the_default_buffer_fits_under_a_limit_of_addresses() -> None:
    code = (
        "import resource, torch\n"
        "from hatchway import DataLoader\n"
        "resource.setrlimit(resource.RLIMIT_AS, (5 << 30, 5 << 30))\n"
        "loader = DataLoader(torch.ones(40, 4), 4, num_workers=2, timeout=30)\n"
        "print(sum(batch.sum().item() for batch in loader))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "160.0\n"


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_arrive(layout: torch.layout) -> None:
    class Nests(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> torch.Tensor:
            parts = [torch.ones(2), torch.full((index + 1,), 2.0)]
            return torch.nested.nested_tensor(parts, layout=layout)

    loader: DataLoader[Any] = DataLoader(Nests(), 2, num_workers=1, collate_fn=list, timeout=30)
    found = [sample for batch in loader for sample in batch]
    assert [[len(part) for part in sample.unbind()] for sample in found] == [
        [2, 1], [2, 2], [2, 3], [2, 4],
    ]  # fmt: skip
