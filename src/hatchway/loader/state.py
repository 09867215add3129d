"""What a loader saves of itself, and how it goes on from that in another process.

A pass is saved as what began it (the generators and the sampler's own state, as they were
then) and what was delivered of it. To go on, the sampler is put back, read again from its
beginning, and what was delivered is left out. After the conventions of torchdata's
``StatefulDataLoader``.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hatchway.loader.accelerated import is_seeded_by_epoch
from hatchway.loader.access import is_deferred, is_iterable
from hatchway.loader.errors import StateError
from hatchway.loader.options import has_own_batches, length_of, makes_batches_freely
from hatchway.loader.progress import Progress
from hatchway.loader.script import Script, decoded, encoded
from hatchway.loader.stateform import check_form

VERSION = 1


@dataclass
class Pass:
    """One pass over a loader, as far as it must be known to go on with it.

    Attributes:
        number: The epoch that samples are seeded with.
        base_seed: As torch draws it.
        begun_by: The generators and the sampler's state before it began.
        progress: How far it has come.
        is_over: Whether the end of it was reached.
        goes_on: Whether it was loaded.
        record: The ranks of each batch so far, where the order is recorded.
        script: The recorded order that it is to have.
    """

    number: int = 0
    base_seed: int = 0
    begun_by: dict[str, Any] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    is_over: bool = False
    goes_on: bool = False
    record: list[NDArray[np.int64]] | None = None
    script: Script | None = None


class PassBook:
    """A loader's present pass, and the one that was loaded and has not begun yet.

    Pickled and copied as an empty one: both belong to the loader that they were made by.
    """

    def __init__(self) -> None:
        self.present: Pass | None = None
        self._loaded: dict[str, Any] | None = None
        self._begun_by: dict[str, Any] | None = None
        self._script: Script | None = None
        self.has_replayed = False  # what ``replay=`` says has begun, or is over

    def __reduce__(self) -> tuple[Any, ...]:
        return PassBook, ()

    @contextmanager
    def entering(self, loader: Any, *, draws_base_seed: bool) -> Iterator[None]:
        """Around what begins a pass: note what it begins with.

        If it goes on with a loaded one, torch's global generator is as before afterwards:
        what that pass drew from it was drawn in another process.
        """
        before = _beginning(loader)
        saved = self._saved_pass()
        self._begun_by = {**before, "draws_base_seed": draws_base_seed}
        try:
            yield
            self._loaded = self._script = None
        finally:
            self._begun_by = None
            if saved is not None and saved["has_begun"]:
                torch.set_rng_state(_tensor_of(before["global"]))

    def begin(self, loader: Any, iterator: Any, number: int) -> Pass:
        """Begin a pass, or the loaded one: then ``iterator``'s sampler begins anew.

        Args:
            loader: Whose pass it is.
            iterator: With torch's ``_sampler_iter`` and ``_base_seed``, just made.
            number: Which epoch it would be.
        """
        begun_by = self._begun_by or {**_beginning(loader), "draws_base_seed": True}
        saved = self._saved_pass()
        record: list[NDArray[np.int64]] | None = [] if loader.record_order else None
        if saved is None:
            self.present = Pass(number, int(iterator._base_seed), begun_by, record=record)
            return self.present
        if saved["has_begun"]:
            begun_by = saved["begun_by"]
        else:
            # It begins here, with the base seed of those before: that drawn just now is
            # given back. What was set after loading, by set_epoch() say, holds.
            begun_by = {**begun_by, "draws_base_seed": saved["begun_by"]["draws_base_seed"]}
        _restore(loader, begun_by, with_global=True)
        iterator._base_seed = saved["base_seed"]
        iterator._sampler_iter = iter(iterator._index_sampler)
        if begun_by["draws_base_seed"]:
            torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        self.present = Pass(
            saved["number"],
            saved["base_seed"],
            begun_by,
            Progress(**saved["progress"]),
            goes_on=True,
            record=record if record is None else decoded(saved["record"] or []),
            script=self._script,
        )
        return self.present

    def _saved_pass(self) -> dict[str, Any] | None:
        return None if self._loaded is None else self._loaded["pass"]

    def save(self, loader: Any) -> dict[str, Any]:
        """The state of a loader; see ``DataLoader.state_dict``."""
        if self._loaded is not None:
            return copy.deepcopy(self._loaded)
        present, beginning = self.present, _beginning(loader)
        saved: dict[str, Any] | None = None
        if present is not None and not present.is_over:
            saved = _as_plain(present)
        elif present is not None and loader.persistent_workers:
            # The next pass has the same base seed, and the next number.
            begun_by = {**beginning, "draws_base_seed": False}
            after = Pass(present.number + 1, present.base_seed, begun_by)
            saved = {**_as_plain(after), "has_begun": False}
        return {
            "version": VERSION,
            "loader": _traits(loader),
            "pass": saved,
            "beginning": beginning if saved is None else None,
            "dataset": None if is_deferred(loader.dataset) else _own_state(loader.dataset),
            "costs": loader.costs.state_dict(),
            "order": None if present is None or present.record is None else _as_plain(present),
            "replay": self._replay_stands(loader),
        }

    def _replay_stands(self, loader: Any) -> str | None:
        present = self.present
        if loader.replay is not None and not self.has_replayed:
            return "due"
        is_now = present is not None and not present.is_over and present.script is not None
        return "now" if is_now else None

    def replay(self, loader: Any, source: Any) -> None:
        """Have the next pass be the recorded one, in its order; see ``DataLoader``."""
        state, order = self._recorded(loader, source)
        with _all_or_nothing(loader):
            _restore(loader, order["begun_by"], with_global=False)
        self._script, self.has_replayed = Script(decoded(order["record"])), True
        progress = {"ranges": [], "num_homes": 0, "digest": 0}
        self._loaded = {**state, "pass": {**order, "progress": progress, "record": None}}
        self.present = None

    def _recorded(self, loader: Any, source: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """A state with a recorded order, and that."""
        state = source
        if isinstance(source, str | os.PathLike):
            state = torch.load(source, weights_only=True)
        _check(loader, state)
        order = state.get("order")
        if order is None:
            raise StateError(
                "the state holds no recorded order; save it from a loader with record_order=True"
            )
        if not makes_batches_freely(loader):
            raise StateError(
                "replay= needs a loader that makes batches freely: order='ready', and no "
                "batch_sampler of your own"
            )
        return state, order

    def load(self, loader: Any, state: Any) -> None:
        """Have the next pass go on from ``state``; see ``DataLoader.load_state_dict``."""
        _check(loader, state)
        saved, replay = state["pass"], state.get("replay")
        script = None
        if replay == "now" and loader.replay is not None:
            script = Script(decoded(self._recorded(loader, loader.replay)[1]["record"]))
        copy.deepcopy(loader.costs).load_state_dict(state["costs"])  # or raise
        with _all_or_nothing(loader):
            _restore(loader, state["beginning"] or saved["begun_by"], with_global=False)
            if state["dataset"] is not None:
                loader.dataset.load_state_dict(state["dataset"])
        loader.costs.load_state_dict(state["costs"])
        self._loaded, self._script = copy.deepcopy(state), script
        self.has_replayed = replay != "due"
        self.present = None
        if is_iterable(loader.dataset):
            warnings.warn(
                "the position in an IterableDataset is not saved: the next pass begins anew",
                stacklevel=3,
            )


@contextmanager
def _all_or_nothing(loader: Any) -> Iterator[None]:
    """Generators and samplers are as before if a part of a state cannot be restored."""
    before = _beginning(loader)
    try:
        yield
    except Exception as error:
        with suppress(Exception):  # a sampler of the user's that refused may refuse again
            _restore(loader, before, with_global=False)
        if isinstance(error, StateError):
            raise
        raise StateError(f"the state could not be restored: {error!r}") from error


def _as_plain(one: Pass) -> dict[str, Any]:
    return {
        "number": one.number,
        "base_seed": one.base_seed,
        "begun_by": one.begun_by,
        "has_begun": True,
        "record": None if one.record is None else encoded(one.record),
        "progress": {
            "ranges": one.progress.ranges(),
            "num_homes": one.progress.num_homes,
            "digest": one.progress.digest,
        },
    }


def _traits(loader: Any) -> dict[str, Any]:
    """What must be the same where a state is loaded."""
    sampler = loader.batch_sampler if has_own_batches(loader) else loader.sampler
    traits = {
        "dataset length": length_of(loader.dataset),
        "batch_size": loader.batch_size,
        "drop_last": loader.drop_last,
        "seeding": loader.seeding,
        "sampler": type(sampler).__name__,
        "generator seed": None if loader.generator is None else loader.generator.initial_seed(),
    }
    for name in ("num_replicas", "rank", "seed", "shuffle"):
        if hasattr(sampler, name) and hasattr(sampler, "set_epoch"):
            traits[f"sampler's {name}"] = getattr(sampler, name)
    if is_deferred(loader.dataset):
        traits["num_readers"] = loader.dataset.num_readers
    return {**traits, "makes batches freely": makes_batches_freely(loader)}


def _check(loader: Any, state: Any) -> None:
    """Refuse a state that does not fit.

    Raises:
        StateError: With what differs, and both values.
    """
    if not isinstance(state, dict) or "version" not in state:
        raise StateError(f"not a state of a hatchway.DataLoader: {str(state)[:80]!r}")
    if type(state["version"]) is not int or state["version"] != VERSION:
        raise StateError(
            f"the state has version {state['version']}, this Hatchway reads version {VERSION}; "
            "load it with the Hatchway that saved it"
        )
    missing = {"loader", "pass", "beginning", "dataset", "costs"} - set(state)
    if missing:
        raise StateError(f"the state is damaged: it lacks {', '.join(sorted(missing))}")
    check_form(state, loader.batch_size)
    saved, own = dict(state["loader"]), _traits(loader)
    was_free, is_free = saved.pop("makes batches freely"), own.pop("makes batches freely")
    for name in sorted({*saved, *own}):
        if saved.get(name) != own.get(name):
            raise StateError(
                f"the state was saved with {name} {saved.get(name)!r}, this loader has "
                f"{own.get(name)!r}; make the loader as it was, or begin without the state"
            )
    progress = (state["pass"] or {}).get("progress")
    if progress is not None and was_free and not is_free:
        size, total = loader.batch_size, length_of(loader.sampler)
        edges = {edge for one in progress["ranges"] for edge in one}
        if any(edge % size and edge != total for edge in edges):
            raise StateError(
                "the state was saved in a pass with order='ready', parts of whose batches were "
                "delivered; go on with order='ready', and change the order after this pass"
            )
    has_state = hasattr(loader.dataset, "load_state_dict") and not is_deferred(loader.dataset)
    if has_state != (state["dataset"] is not None):
        raise StateError("the dataset has a state of its own in one of both, in the other not")


def _beginning(loader: Any) -> dict[str, Any]:
    """The generators, and the sampler's own state, as they are now."""
    samplers = [{"state": _own_state(one), "epoch": _epoch_of(one)} for one in _samplers(loader)]
    return {
        "generators": [_bytes_of(one.get_state()) for one in _generators(loader)],
        "global": _bytes_of(torch.get_rng_state()),
        "samplers": samplers,
    }


def _restore(loader: Any, beginning: dict[str, Any], *, with_global: bool) -> None:
    """Put generators and samplers back to what :func:`_beginning` found."""
    generators, samplers = _generators(loader), _samplers(loader)
    saved = beginning["generators"], beginning["samplers"]
    if (len(generators), len(samplers)) != (len(saved[0]), len(saved[1])):
        raise StateError(
            f"the state was saved with {len(saved[0])} generators in loader and sampler, this "
            f"loader has {len(generators)}; pass generator= as it was"
        )
    for generator, state in zip(generators, saved[0], strict=True):
        generator.set_state(_tensor_of(state))
    if with_global:
        torch.set_rng_state(_tensor_of(beginning["global"]))
    for sampler, one in zip(samplers, saved[1], strict=True):
        if one["state"] is not None:
            sampler.load_state_dict(copy.deepcopy(one["state"]))
        if one["epoch"] is not None and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(one["epoch"])


def _samplers(loader: Any) -> list[Any]:
    """The loader's samplers, the outermost first."""
    if is_deferred(loader.dataset):
        return [loader.dataset]  # what it yields is the order
    outer = loader.batch_sampler
    if not has_own_batches(loader):  # Accelerate puts its own into the batch sampler
        outer = getattr(loader.batch_sampler, "sampler", loader.sampler)
    found: list[Any] = []
    while outer is not None and all(outer is not one for one in found):
        found.append(outer)
        outer = getattr(outer, "sampler", getattr(outer, "batch_sampler", None))
    return found


def _generators(loader: Any) -> list[torch.Generator]:
    """The generators that loader and samplers draw from, each once."""
    found: list[torch.Generator] = []
    for owner in (loader, *_samplers(loader)):
        generator = None if is_seeded_by_epoch(owner) else getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator) and all(generator is not one for one in found):
            found.append(generator)
    return found


def _epoch_of(sampler: Any) -> int | None:
    epoch = getattr(sampler, "epoch", None)
    return epoch if isinstance(epoch, int) else None  # one that is shared tells the readers


def _own_state(stateful: Any) -> Any:
    if not (hasattr(stateful, "state_dict") and hasattr(stateful, "load_state_dict")):
        return None
    return copy.deepcopy(stateful.state_dict())


def _bytes_of(state: torch.Tensor) -> bytes:
    return state.numpy().tobytes()


def _tensor_of(state: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(state, np.uint8).copy())
