"""A batch keeps its structure when its tensors are moved."""

from __future__ import annotations

import array
from collections import OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hatchway.loader.structure import mapped
from tests.property import nests


class Point(NamedTuple):
    x: Any
    to: Any  # a field, not a method


@dataclass
class Batch:
    images: Any
    names: Any = "a"
    late: Any = field(init=False, default=None)


@dataclass(frozen=True)
class Frozen:
    images: Any


@dataclass(frozen=True, slots=True)
class Slotted:
    images: Any


class Labelled(dict[str, Any]):
    label = ""


class Odd(Mapping[str, Any]):
    """Is made of nothing that a mapping holds."""

    def __init__(self, one: Any, two: Any) -> None:
        self.items_ = {"one": one, "two": two}

    def __getitem__(self, key: str) -> Any:
        return self.items_[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_)

    def __len__(self) -> int:
        return 2


class Batches(UserDict[str, Any]):
    """As tokenizers return: a mapping that moves itself."""

    def to(self, device: Any) -> Batches:
        return self


def doubled(one: Any) -> Any:
    return one * 2 if isinstance(one, torch.Tensor) else one


tensor = torch.arange(3)
twice = tensor * 2


@given(nest=nests.nests(st.one_of(nests.tensors(), nests.arrays(), nests.scalars)))
def test_a_copied_nest_is_the_same_and_shares_no_tensor(nest: Any) -> None:
    moved: list[torch.Tensor] = []

    def copied(one: torch.Tensor) -> torch.Tensor:
        moved.append(one)
        return one.clone()

    after = mapped(nest, copied)
    assert nests.same(after, nest)
    assert (after is nest) == (not moved)


@given(nest=nests.nests(st.one_of(nests.arrays(), nests.scalars)))
def test_what_holds_no_tensor_is_the_object_that_it_was(nest: Any) -> None:
    assert mapped(nest, doubled) is nest


def filled(kind: Any, *arguments: Any) -> Any:
    made = kind(*arguments)
    made["x"] = tensor
    return made


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (Point(tensor, 3), lambda after: after.x),
        (Batch(tensor), lambda after: after.images),
        (Frozen(tensor), lambda after: after.images),
        (Slotted(tensor), lambda after: after.images),
        (filled(Labelled), lambda after: after["x"]),
        (filled(OrderedDict), lambda after: after["x"]),
        (filled(UserDict), lambda after: after["x"]),
        (filled(defaultdict, list), lambda after: after["x"]),
        (MappingProxyType({"x": tensor}), lambda after: after["x"]),
        (deque([tensor], maxlen=4), lambda after: after[0]),
        (UserList([tensor]), lambda after: after[0]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_containers_of_every_kind_stay_what_they_were(value: Any, part: Any) -> None:
    after = mapped([value, None], doubled)[0]
    assert type(after) is type(value)
    assert torch.equal(part(after), twice)
    assert torch.equal(part(value), tensor), "the original was changed"


def test_what_a_container_carries_besides_stays() -> None:
    labelled = filled(Labelled)
    labelled.label = "kept"
    assert mapped(labelled, doubled).label == "kept"
    assert mapped(filled(defaultdict, list), doubled)["missing"] == []
    assert mapped(deque([tensor], maxlen=4), doubled).maxlen == 4
    batch = Batch(tensor, {"inner": (tensor,)})
    batch.late = [tensor]
    after = mapped(batch, doubled)
    assert torch.equal(after.names["inner"][0], twice)
    assert torch.equal(after.late[0], twice)


def test_a_mapping_that_cannot_be_made_anew_becomes_a_dict() -> None:
    after = mapped(Odd(tensor, "a"), doubled)
    assert type(after) is dict
    assert torch.equal(after["one"], twice)
    assert after["two"] == "a"


def test_what_moves_itself_is_asked_to_whatever_it_looks_like() -> None:
    asked: list[Any] = []
    batches = Batches({"x": tensor})
    assert mapped([batches], lambda one: asked.append(one) or one) == [batches]
    assert len(asked) == 1
    assert asked[0] is batches
    assert mapped([Batches, Batch, torch.float32], doubled) == [Batches, Batch, torch.float32]


def test_flat_sequences_are_not_looked_into() -> None:
    flat = ["text", b"bytes", bytearray(3), memoryview(b"abc"), range(1 << 60), array.array("i")]
    assert mapped(flat, doubled) is flat
