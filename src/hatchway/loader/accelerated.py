"""Staying in place under Hugging Face Accelerate.

``accelerator.prepare(loader)`` reads the arguments of a loader and builds torch's own class
from them, whatever the loader's class was. What it returns, and what ``skip_first_batches``
makes of that, is an adapter around the loader that it built; a loader of ours is put into
that adapter instead. Accelerate is not imported, but looked for among the loaded modules.
"""

from __future__ import annotations

import copy
import functools
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from torch.utils.data import IterableDataset

_MODULE = "accelerate.data_loader"
# What an Accelerator asks a loader for first.
_IS_PREPARED = "_is_accelerate_prepared"


class KeptLoaders:
    """The loaders of this process that Accelerate is to keep."""

    def __init__(self) -> None:
        self._loaders: weakref.WeakSet[Any] = weakref.WeakSet()
        self._dispatched: weakref.WeakKeyDictionary[Any, Dispatched] = weakref.WeakKeyDictionary()
        self._is_watching = False

    def add(self, loader: Any) -> None:
        """Have ``loader`` kept, if Accelerate comes to prepare it."""
        self._loaders.add(loader)
        module = sys.modules.get(_MODULE)
        if module is not None and not self._is_watching:
            self._is_watching = True
            self._watch(module)

    def is_asked(self, loader: Any, name: str) -> None:
        """``loader`` was asked for an attribute that it does not have.

        Where Accelerate was imported after the loader was made, that is the first sign of it.
        """
        if name == _IS_PREPARED:
            self.add(loader)

    def _watch(self, module: Any) -> None:
        adapter = getattr(module, "DataLoaderAdapter", None)
        if adapter is None:
            warnings.warn(
                "this version of Accelerate has no DataLoaderAdapter for hatchway.DataLoader to "
                "put itself into: accelerator.prepare() will give you torch's own loader",
                stacklevel=2,
            )
        else:
            adapter.__init__ = self._keeping(adapter.__init__)
            adapter.adjust_state_dict_for_prefetch = self._adjusting(
                adapter.adjust_state_dict_for_prefetch
            )

    def _keeping(self, construct: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(construct)
        def construct_and_keep(adapter: Any, *args: Any, **kwargs: Any) -> None:
            construct(adapter, *args, **kwargs)
            built = adapter.base_dataloader
            original = self._original_of(built)
            if original is not None:
                adapter.base_dataloader = _twin(original, built)
                adapter.dl_state_dict = adapter.base_dataloader.state_dict()
                self._loaders.add(adapter.base_dataloader)

        return construct_and_keep

    def _original_of(self, built: Any) -> Any:
        """The loader of ours whose arguments ``built`` was built from; None for others'."""
        given = _given()
        if given is not None:
            return given if given in self._loaders else None
        return next((one for one in list(self._loaders) if _is_of(built, one)), None)

    def _adjusting(self, adjust: Callable[[Any], None]) -> Callable[[Any], None]:
        @functools.wraps(adjust)
        def adjust_for_prefetch(adapter: Any) -> None:
            if adapter.base_dataloader in self._loaders:
                self._dispatched.setdefault(adapter, Dispatched()).correct(adapter)
            else:
                adjust(adapter)

        return adjust_for_prefetch


class Dispatched:
    """Which state of a loader whose batches go to all processes is that of the loop.

    The adapter takes as many batches as there are processes for each one that it gives, and
    looks at the state before each: the loop was given what was taken before the first.
    """

    def __init__(self) -> None:
        self._pass: Any = None
        self._num_looks = 0
        self._state: Any = None

    def correct(self, adapter: Any) -> None:
        """Put the state of the loop where the adapter put the loader's."""
        present = adapter.base_dataloader._passes.present
        if present is not self._pass:
            self._pass, self._num_looks = present, 0
        if adapter.end_of_dataloader or self._num_looks % _num_taken(adapter) == 0:
            self._state = adapter.dl_state_dict
        adapter.dl_state_dict = self._state
        self._num_looks += 1


def is_accelerates(sampler: Any) -> bool:
    """Whether a sampler is a class of Accelerate's."""
    return type(sampler).__module__ == _MODULE


def is_seeded_by_epoch(sampler: Any) -> bool:
    """Whether a sampler is Accelerate's, which makes its generator and seeds it for each epoch."""
    return is_accelerates(sampler) and hasattr(sampler, "initial_seed")


def filled_from(loader: Any) -> int:
    """The rank of the first sample of the batch that Accelerate filled up; -1 without one.

    That is the last batch of this process, where there are not as many samples as all
    processes together take at once.
    """
    batches = loader.batch_sampler
    shard = next((one for one in _wrapped(batches) if hasattr(one, "even_batches")), None)
    if shard is None or not shard.even_batches or shard.drop_last:
        return -1
    size, number = loader.batch_size, shard.process_index
    try:
        num_left = len(shard.batch_sampler.sampler) % (size * shard.num_processes)
        return (len(batches) - 1) * size if 0 < num_left < size * (number + 1) else -1
    except (AttributeError, TypeError):
        return -1  # a sampler that does not know how much it yields


def _num_taken(adapter: Any) -> int:
    """How many batches an adapter takes for each one that it gives."""
    is_one = getattr(adapter, "split_batches", True) or adapter.submesh_tp is not None
    return 1 if is_one else int(adapter.state.num_processes)


def _is_of(built: Any, original: Any) -> bool:
    """Whether ``built`` has the arguments of ``original``."""
    same = ("collate_fn", "worker_init_fn", "num_workers", "timeout", "in_order")
    if any(getattr(built, name) != getattr(original, name) for name in same):
        return False
    if not any(one is original.dataset for one in _wrapped(built.dataset)):
        return False
    return not _has_batches_of_indices(original) or any(
        one is original.batch_sampler for one in _wrapped(built.batch_sampler)
    )


def _given() -> Any:
    """The loader that Accelerate was given, while it makes an adapter from its arguments.

    Arguments alone do not tell: two loaders may have all of them in common, and one of them
    be torch's. None where Accelerate does not call it so any more.
    """
    frame: FrameType | None = sys._getframe(3)
    while frame is not None and frame.f_globals.get("__name__") == _MODULE:
        if "dataloader" in frame.f_locals:
            given = frame.f_locals["dataloader"]
            return getattr(given, "base_dataloader", given)
        frame = frame.f_back
    return None


def _twin(original: Any, built: Any) -> Any:
    """``original``, over what Accelerate had ``built`` read; what it knows is shared."""
    twin = copy.copy(original)
    names = ["dataset", "batch_sampler", "generator"]
    if not (_has_batches_of_indices(original) and _keeps_batches(built.batch_sampler)):
        names += ["sampler", "batch_size", "drop_last"]
    vars(twin).update({name: getattr(built, name) for name in names}, _iterator=None)
    return twin


def _has_batches_of_indices(loader: Any) -> bool:
    return loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset)


def _keeps_batches(batch_sampler: Any) -> bool:
    """Whether each batch is one that the innermost batch sampler yields."""
    return not any(getattr(one, "split_batches", False) for one in _wrapped(batch_sampler))


def _wrapped(outer: Any) -> Iterator[Any]:
    """``outer``, and what the samplers or datasets of Accelerate's in it are wrapped around."""
    while outer is not None:
        yield outer
        if type(outer).__module__ != _MODULE:
            return
        outer = getattr(outer, "batch_sampler", None) or getattr(outer, "dataset", None)
