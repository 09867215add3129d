"""One pass over a loader without workers, with the same samples as with them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import _utils
from torch.utils.data.dataloader import _BaseDataLoaderIter

from hatchway.loader.access import by_index
from hatchway.loader.access import fetches_batches as has_batches
from hatchway.loader.context import tell_key
from hatchway.loader.cost import SLOW_QUANTILE, SampleTimes
from hatchway.loader.options import fetches_batches, makes_batches_freely
from hatchway.loader.progress import read_again, trace
from hatchway.loader.script import Script, missing_position
from hatchway.loader.seeding import (
    collate_position,
    make_seeder,
    restore_generators,
    sample_key,
    save_generators,
)
from hatchway.loader.statistics import LoaderStatistics, Meter
from hatchway.loader.transfer import bring, transfer_to

_Batches: TypeAlias = Iterator[tuple[NDArray[np.int64], list[Any]]]


class SerialIterator(_BaseDataLoaderIter):
    """Loads in the calling process, whose own generators it leaves as they were."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        if loader.timeout != 0:
            raise ValueError(f"timeout must be 0 with num_workers=0, not {loader.timeout}")
        self._transfer = None if loader.device is None else transfer_to(loader.device)
        self._fetches_batches = fetches_batches(loader) and has_batches(loader.dataset)
        self._dataset: Any = loader.dataset if self._fetches_batches else by_index(loader.dataset)
        self._seeder = make_seeder() if loader.seeding == "position" else None
        self._meter = Meter()
        self._times = SampleTimes(SLOW_QUANTILE, is_quantile=True)
        self._pass = loader._passes.begin(loader, self, 0)
        is_free = makes_batches_freely(loader)
        keys = self._key_batches(loader)
        if self._pass.goes_on:
            # At once: the sampler may draw from the global generator, which is as it was then.
            left, self._pass.progress, first = read_again(keys, self._pass.progress)
            keys = itertools.chain(left, list(itertools.islice(keys, 1)), keys)
            size, script = loader.batch_size, self._pass.script
            if script is not None:
                self._batches = self._scripted_batches(keys, first, script, size)
            else:
                self._batches = self._left_batches(keys, first, size if is_free else None)
        else:
            self._batches = self._all_batches(keys)
        loader._statistics.follow(self)
        self._box = loader._statistics

    def _key_batches(self, loader: Any) -> Iterator[list[Any]]:
        """What the sampler yields, as lists of keys."""
        return (list(one) if self._auto_collation else [one] for one in self._sampler_iter)

    def statistics(self) -> LoaderStatistics:
        """What this pass did so far."""
        return self._meter.snapshot(
            sample_time_quantiles_s=self._times.quantiles(0.5, 0.75, 0.99, 1.0),
            slow_after_s=self._times.cut_s(),
            order="strict",
        )

    def _next_data(self) -> Any:
        asked = self._meter.asked()
        try:
            ranks, keys = next(self._batches)
        except StopIteration:
            self._pass.is_over = True
            self._meter.answered(asked, 0)
            self._box.keep(self, self.statistics())
            raise
        if len(ranks):
            self._pass.progress.deliver(ranks)
            if self._pass.record is not None:
                self._pass.record.append(ranks)
        saved = save_generators() if self._seeder else None
        outer = tell_key(None)
        try:
            samples = self._samples_of(keys, ranks.tolist())
            self._seed(collate_position(int(ranks[0]) if len(ranks) else 0))
            batch = self._collate_fn(samples if self._auto_collation else samples[0])
        finally:
            tell_key(outer)
            if saved is not None:
                restore_generators(saved)
        self._meter.answered(asked, len(keys))
        if self._transfer is not None:
            return bring(self._transfer, batch)
        if self._pin_memory:
            batch = _utils.pin_memory.pin_memory(batch, self._pin_memory_device)
        return batch

    def _all_batches(self, batches: Iterator[list[Any]]) -> _Batches:
        """The ranks and keys of each batch."""
        first = 0
        for keys in batches:
            self._pass.progress.read(trace(keys))
            yield np.arange(first, first + len(keys)), keys
            first += len(keys)

    def _left_batches(
        self, batches: Iterator[list[Any]], first: int, regrouped: int | None
    ) -> _Batches:
        """The ranks and keys of what was not delivered before this pass went on.

        Args:
            batches: What the sampler yields, from ``first`` on.
            first: The rank that it begins with.
            regrouped: How many samples a batch is made of where parts of the sampler's
                batches were delivered; None where they are delivered as they are.
        """
        rest: list[tuple[int, Any]] = []
        for _, left in self._left_of(batches, first):
            rest += left
            while rest and len(rest) >= (regrouped or len(left)):
                count = regrouped or len(left)
                yield _columns(rest[:count])
                del rest[:count]
        if rest and not self._drop_last:
            yield _columns(rest)

    def _left_of(
        self, batches: Iterator[list[Any]], first: int
    ) -> Iterator[tuple[int, list[tuple[int, Any]]]]:
        """Of each batch: the rank after it, and the ranks and keys that were not delivered."""
        progress = self._pass.progress
        for keys in batches:
            progress.read(trace(keys))
            gone = set(progress.delivered_of(first, len(keys)).tolist())
            left = [one for one in enumerate(keys, first) if one[0] not in gone]
            first += len(keys)
            yield first, left

    def _scripted_batches(
        self, batches: Iterator[list[Any]], first: int, script: Script, batch_size: int
    ) -> _Batches:
        """What is left of batches in a recorded order; what was not recorded comes after.

        Args:
            batches: What the sampler yields, from ``first`` on.
            first: The rank that it begins with.
            script: The recorded order.
            batch_size: Of the batches that come after it.
        """
        known: dict[int, Any] = {}
        num_read = first
        left_of = self._left_of(batches, first)
        for ranks in script.batches:
            while num_read <= int(ranks.max()):
                read = next(left_of, None)
                if read is None:
                    raise missing_position(int(ranks.max()), num_read)
                num_read, left = read
                known.update(left)
            mine = [rank for rank in ranks.tolist() if rank in known]
            if mine:
                yield _columns([(rank, known.pop(rank)) for rank in mine])
        for _, left in left_of:
            known.update(left)
        rest = sorted(known.items(), key=lambda one: one[0])
        for at in range(0, len(rest), batch_size):
            if len(rest) - at >= batch_size or not self._drop_last:
                yield _columns(rest[at : at + batch_size])

    def _seed(self, position: int) -> None:
        place = self._pass.base_seed, self._pass.number, position
        tell_key(partial(sample_key, *place))
        if self._seeder is not None:
            self._seeder.seed(*place)

    def _samples_of(self, keys: list[Any], ranks: list[int]) -> Any:
        if not self._fetches_batches or not keys:
            return [self._load(*one) for one in zip(keys, ranks, strict=True)]
        self._seed(ranks[0])
        asked = self._meter.asked()
        samples = self._dataset.__getitems__(keys)
        seconds = (self._meter.asked() - asked) / len(keys)
        self._times.observe(np.full(len(keys), seconds, np.float32))
        return samples

    def _load(self, key: Any, position: int) -> Any:
        self._seed(position)
        asked = self._meter.asked()
        sample = self._dataset[key]
        self._times.observe(np.array([self._meter.asked() - asked], np.float32))
        return sample


def _columns(pairs: list[tuple[int, Any]]) -> tuple[NDArray[np.int64], list[Any]]:
    return np.array([rank for rank, _ in pairs], np.int64), [key for _, key in pairs]
